# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the resident flow loop's weights are packed: every number must be where the kernel looks for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from pi_vla_ros.engine.fused.weights import GemmaLayer, Turn
from pi_vla_ros.kernels import flow_loop
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


def test_parameters_stand_where_the_kernel_looks_for_them(monkeypatch):
    """`struct Params` of flow_loop.cu, name by name, against the addresses that FlowLoop writes."""
    monkeypatch.setattr(flow_loop, "Kernel", lambda *_: None)
    layer = GemmaLayer(*(torch.zeros(s) for s in ((2560, 1024), (1024, 2048), (8192, 1024), (1024, 4096))))
    enter, leave = (torch.ones(1024, 32), torch.ones(1024)), (torch.ones(32, 1024), torch.ones(32))
    turns = [Turn(None, enter), Turn(leave, enter), Turn(leave, None)]
    rope, mix, entering = (torch.zeros(128, 128), torch.ones(128, 128)), torch.zeros(1024, 1024), torch.zeros(64, 1024)
    loop = flow_loop.FlowLoop([layer], turns, None, mix, entering, rope, key_rows=100, tokens=51, steps=2, keep=False)
    assert layer.qkv is None  # its memory is given back

    text = (Path(flow_loop.__file__).parent / "flow_loop.cu").read_text()
    members = re.search(r"struct Params \{(.*?)\};", text, re.DOTALL)[1].split(";")
    names = [re.sub(r".*[ *]", "", n.strip()) for m in members for n in m.split(",") if n.strip()]
    assert names[0] == "weights[LAYERS]"
    at = dict(zip(names, loop._params.tolist(), strict=True))
    assert (at["cos"], at["sin"], at["entering"]) == tuple(t.data_ptr() for t in (*rope, entering))
    assert at["counters"] == loop._counters.data_ptr()
    assert (at["chunks"], at["steps"], at["tokens"]) == (2, 2, 51)
    held = {t.data_ptr(): t for t in loop._keep}
    shapes = {"h": 16 * 7 * 512, "q": 32 * 7 * 512, "att": 32 * 7 * 512, "act": 64 * 7 * 512, "mixed": 16 * 7 * 512,
              "part": 8 * 2 * 64 * 256, "ml": 8 * 2 * 64 * 2, "opart": 128 * 64 * 64, "dpart": 128 * 64 * 64,
              "ss": 64 * 128, "xg": 64 * 1024, "leave_w": 2 * 32 * 1024, "leave_b": 64, "enter_w": 32 * 1024,
              "enter_b": 2 * 1024, "strength": 2}  # fmt: skip
    assert {n: held[at[n]].numel() for n in shapes} == shapes
    assert held[at["strength"]].tolist() == [
        float("inf"),
        pytest.approx(2.0),
    ]  # at times 1, which `most` bounds, and 1/2
