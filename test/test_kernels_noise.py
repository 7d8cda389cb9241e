# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Noise drawn in the graph: Philox against its published vectors, normal, reproducible wherever a robot stands."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from pi_vla_ros.kernels.noise import draw

if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)


def philox(counter, key):
    """Four words of Philox 4x32-10, in Python's integers."""
    (a, b, c, d), (k, m), word = counter, key, 0xFFFFFFFF
    for _ in range(10):
        high, low = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (low >> 32) ^ b ^ k, low & word, (high >> 32) ^ d ^ m, high & word
        k, m = (k + 0x9E3779B9) & word, (m + 0xBB67AE85) & word
    return a, b, c, d


def normal(seed, stream, draw, count):
    words = [philox((i, stream, draw, 0), (seed & 0xFFFFFFFF, seed >> 32)) for i in range(count)]
    signed = np.array(words, np.uint32)[:, :2].view(np.int32).astype(np.float64)
    u = np.where(signed < 0, -signed - 1, signed) / 2**31
    return np.sqrt(-2 * np.log(np.maximum(u[:, 0], 1e-7))) * np.cos(2 * np.pi * u[:, 1])


def test_philox_is_the_published_one():
    """Known answers of Random123."""
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


def drawn(keys, scale, shape=(7, 32)):
    x_t = torch.full((len(keys), *shape), float("nan"))
    draw(x_t, torch.tensor(keys), torch.tensor(scale), pdl=False)
    return x_t


def test_noise_is_philox():
    seed = 5 + (9 << 32)
    got = drawn([(1, seed, 3, 2), (0, 1, 1, 1)], [0.5, 1.0])
    np.testing.assert_allclose(got[0].flatten().numpy(), 0.5 * normal(seed, 3, 2, 7 * 32), atol=2e-6)
    assert got[1].isnan().all()  # a robot that brings its own keeps it


def test_a_robot_gets_its_own_wherever_it_stands():
    one = drawn([(1, 4, 0, 1)], [1.0])
    three = drawn([(1, 9, 0, 1), (1, 9, 1, 1), (1, 4, 0, 1)], [1.0] * 3)
    assert torch.equal(three[2], one[0])
    assert not torch.equal(three[0], three[1])
    x = drawn([(1, 4, 0, d) for d in range(20)], [1.0] * 20).flatten()
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05 and x.unique().numel() > 0.99 * x.numel()
