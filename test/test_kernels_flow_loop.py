# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the resident flow loop's weights are packed: every number must be where the kernel looks for it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from pi_vla_ros.kernels.flow_loop import CTAS, QKV_CTAS, QKV_ROWS, by_program, packed_layer, tiles


def test_tiles_are_swizzled():
    w = torch.arange(128 * 192).view(128, 192)
    t = tiles(w, 64)
    for n, k in [(0, 0), (5, 70), (77, 191), (127, 64)]:
        row, column = n % 64, k % 64
        assert t[n // 64, k // 64, row, ((column // 8) ^ (row % 8)) * 8 + column % 8] == w[n, k]


def test_programs_get_their_piece_of_the_inner_axis():
    t = tiles(torch.randn(1024, 2048), 64)  # 16 columns of tiles, 32 deep
    mine = by_program(t, 8).view(8, 16, 4, 64, 64)
    assert torch.equal(mine[3, 5, 2], t[5, 4 * 3 + 2])


def test_a_layer_holds_every_weight_once():
    sizes = (2560, 1024), (1024, 2048), (8192, 1024), (1024, 4096)
    count = sum(a * b for a, b in sizes)
    layer = packed_layer(*(torch.ones(s) for s in sizes))
    padding = (QKV_CTAS * QKV_ROWS - 2560) * 1024
    assert layer.sum() == count
    assert layer.numel() == count + padding + (CTAS - QKV_CTAS) * QKV_ROWS * 1024


def test_gate_and_up_of_four_neighbours_meet_in_one_thread():
    up = torch.arange(8192.0)[:, None].expand(8192, 1024)  # row r says r: gate of column r / 2 if even, else its up
    zero = torch.zeros(2560, 1024), torch.zeros(1024, 2048), torch.zeros(1024, 4096)
    layer = packed_layer(zero[0], zero[1], up, zero[2])
    first = 8 * 2 * QKV_ROWS * 128 // 2 + 4 * 4096  # elements of QKV and output tiles before
    tile = layer[7, first : first + 4096].view(64, 64)[:, 0]
    for group in range(2):
        for quad in range(4):
            for t in range(4):
                column = 7 * 32 + group * 16 + quad * 4 + t
                row = group * 32 + t * 8 + quad * 2
                assert tile[row] == 2 * column and tile[row + 1] == 2 * column + 1
