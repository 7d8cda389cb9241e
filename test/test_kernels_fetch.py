# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Frames out of the host's memory: each word where it belongs. On a GPU: gpu/test_resize_cuda.py."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from pi_vla_ros.kernels.fetch import FIELDS, PROGRAMS, WORD, WORDS, fetch

if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

LONG = PROGRAMS * WORDS  # words of one round
COUNTS = [0, 1, 5, WORDS - 1, WORDS, WORDS + 1, LONG + 3, 2 * LONG + WORDS + 1]


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.sampled_from(COUNTS), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_fetch(counts, seed):
    """Each source where it belongs, nothing behind or before it, and nothing where the address is 0."""
    random = np.random.default_rng(seed)
    frames = [random.integers(1, 256, WORD * count + WORD, dtype=np.uint8) for count in counts]
    sources, expected, at = torch.zeros(len(counts) + 1, FIELDS, dtype=torch.int64), [np.zeros(3, np.int32)], 3
    sources[-1] = torch.tensor([0, 0, 3])
    for source, frame, count in zip(sources, frames, counts, strict=False):
        source[:] = torch.tensor([frame.ctypes.data, at, count])
        expected += [frame[: WORD * count].view(np.int32), np.zeros(2, np.int32)]
        at += count + 2
    block = torch.zeros(at, dtype=torch.int32)
    fetch(sources, block, pdl=False)
    assert np.array_equal(block.numpy(), np.concatenate(expected))
