# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the CUDA kernels' weights are packed, and their source. The kernels: test/gpu/test_hopper_kernels.py."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from pi_vla_ros.kernels.cuda import mma, source_of
from pi_vla_ros.kernels.hopper_linear import packed, packed_pair


def owned(rows: int, lane: int) -> list[int]:
    """Columns of a tensor core's result [64, rows] that a thread holds, in the order of its registers (rows aside)."""
    return [8 * block + 2 * (lane % 4) + pair for block in range(rows // 8) for pair in range(2)]


def test_a_thread_holds_8_neighbouring_columns():
    w = packed(torch.arange(64)[:, None])[:, 0]
    for lane in range(4):
        first, second = (w[owned(32, lane)].tolist(), w[32:][owned(32, lane)].tolist())
        assert first == list(range(8 * lane, 8 * lane + 8))
        assert second == list(range(32 + 8 * lane, 40 + 8 * lane))


def test_a_thread_holds_gate_and_up_of_8_neighbours():
    gate, up = torch.arange(64)[:, None], 1000 + torch.arange(64)[:, None]
    w = packed_pair(gate, up)[:, 0]
    assert sorted(w.tolist()) == sorted([*range(64), *range(1000, 1064)])
    for lane in range(4):
        for half in range(2):
            columns = w[64 * half :][owned(64, lane)].tolist()
            first = 32 * half + 8 * lane
            assert columns[0::2] == list(range(first, first + 8))
            assert columns[1::2] == list(range(1000 + first, 1000 + first + 8))


@pytest.mark.parametrize(("n", "a", "operands"), [(24, "shared", 12 + 3), (64, "regs", 32 + 6)])
def test_wrapper_names_every_operand_once(n, a, operands):
    text = mma(n, a)
    assert f"m64n{n}k16" in text
    assert [f"%{i}" in text for i in range(operands + 1)] == [True] * operands + [False]


def test_source_has_its_definitions_first():
    text = source_of("hopper_attention", {"SOME": 3}, [mma(64)])
    assert text.startswith("#define SOME 3\n")
    assert text.index("void mma64(") < text.index("hopper_attention(")
