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
from pi_vla_ros.kernels import flow_ahead, flow_loop
from pi_vla_ros.kernels.flow_loop import CTAS, QKV_COLUMNS, QKV_TEAM, UP_TEAM, as_held, by_depth, packed_layer, tiles


def test_tiles_are_swizzled():
    w = torch.arange(128 * 192).view(128, 192)
    t = tiles(w, 64)
    for n, k in [(0, 0), (5, 70), (77, 191), (127, 64)]:
        row, column = n % 64, k % 64
        assert t[n // 64, k // 64, row, ((column // 8) ^ (row % 8)) * 8 + column % 8] == w[n, k]


def rows_of(tile: torch.Tensor) -> list[int]:
    """First column of an unpacked tile of 48 or 72 rows: what `numbered` weights say of their rows."""
    rows = torch.arange(tile.numel() // 64)
    return tile.view(-1, 8, 8)[rows, rows % 8, 0].int().tolist()


def numbered(rows: int, columns: int) -> torch.Tensor:
    """Row r says r + 1: zeros are what fills the last tiles up."""
    return torch.arange(1.0, rows + 1)[:, None].expand(rows, columns)


def test_a_cluster_has_its_columns_and_a_program_its_eighth_of_the_depth():
    w = torch.randn(1024, 2048)
    mine = by_depth(w).view(15, 8, 4, 72, 64)
    plain = w[3 * 72 : 4 * 72, (5 * 4 + 2) * 64 :][:, :64]
    assert torch.equal(mine[3, 5, 2].flatten().sort()[0], plain.flatten().sort()[0])
    rows = rows_of(by_depth(numbered(1024, 2048)).view(15, 8, 4, 72, 64)[3, 5, 2])
    for i in range(4):  # a thread that holds rows 2 q, 2 q + 1 of every 8 has 4 neighbours of 16
        for quad in range(4):
            got = [rows[16 * i + 8 * block + 2 * quad + j] for block in range(2) for j in range(2)]
            assert got == [3 * 72 + 16 * i + 4 * quad + n + 1 for n in range(4)]
    assert rows[64:] == [3 * 72 + 64 + n + 1 for n in range(8)]
    last = rows_of(by_depth(numbered(1024, 2048)).view(15, 8, 4, 72, 64)[14, 0, 0])
    assert sorted(r for r in last if r) == list(range(14 * 72 + 1, 1025)) and last.count(0) == 15 * 72 - 1024


def test_a_layer_holds_every_weight_once():
    sizes = (2560, 1024), (1024, 2048), (8192, 1024), (1024, 4096)
    layer = packed_layer(*(torch.ones(s) for s in sizes))
    assert layer.shape == (CTAS, 8 * QKV_COLUMNS * 64 + (4 + 16 + 8) * 72 * 64)
    assert layer.sum() == sum(a * b for a, b in sizes)


QKV, OUT = 8 * QKV_COLUMNS * 64, 4 * 72 * 64  # elements a program of tiles before those of `out`, of gate and up


def test_gate_and_up_of_eight_neighbours_meet_in_one_thread():
    zero = torch.zeros(2560, 1024), torch.zeros(1024, 2048), torch.zeros(1024, 4096)
    up = numbered(8192, 1024)  # row r: gate of column r / 2 if r is even, else its up
    layer = packed_layer(zero[0], zero[1], up, zero[2])
    cluster, rank = 2, 7
    first = 3 * 1024 + cluster * 72  # columns of this cluster's part of the ranks' quarter
    for program in (8 * cluster + rank, 8 * cluster + rank - 1):  # a pair: the same columns, half of the depth each
        for group in range(2):
            rows = rows_of(layer[program, QKV + OUT + group * 72 * 64 :][: 72 * 64])
            for quad in range(4):
                for n in range(8):
                    row, column = 8 * n + 2 * quad, first + 32 * group + 8 * quad + n
                    assert rows[row : row + 2] == [2 * column + 1, 2 * column + 2]
                column = first + 64 + 4 * group + quad
                assert rows[64 + 2 * quad : 66 + 2 * quad] == [2 * column + 1, 2 * column + 2]


def test_queries_of_four_neighbours_meet_in_one_thread():
    zero = torch.zeros(1024, 2048), torch.zeros(8192, 1024), torch.zeros(1024, 4096)
    layer = packed_layer(numbered(2560, 1024), *zero)
    rows = rows_of(layer[46][: 48 * 64])  # of the first warpgroup
    first = 46 // 4 * 96
    for part in range(2):
        for quad in range(4):
            got = [rows[24 * part + 8 * block + 2 * quad + j] for block in range(2) for j in range(2)]
            assert got == [first + 24 * part + 4 * quad + n + 1 for n in range(4)]
        assert rows[24 * part + 16 : 24 * part + 24] == [first + 24 * part + 17 + n for n in range(8)]


def test_a_program_has_its_part_of_the_depth_and_each_team_begins_at_a_block_of_its_own():
    """QKV, gate and up: each program of a team has one part, and team i begins at its block i."""
    block = torch.arange(1024.0) // 64 + 1  # column c says which block of 64 it is in
    qkv, up = (block.expand(n, 1024) for n in (2560, 8192))
    layer = packed_layer(qkv, torch.zeros(1024, 2048), up, torch.zeros(1024, 4096))
    for program in range(8, 16):
        first = layer[program, :QKV].view(16 // QKV_TEAM, -1)
        second = layer[program, QKV + OUT :][: 16 * 72 * 64].view(8, -1)
        for tiles_of, size in ((first, QKV_TEAM), (second, UP_TEAM)):
            count, team, part = 16 // size, program // size, program % size
            want = [count * part + (team + i) % count + 1 for i in range(count)]
            assert [int(t.max()) for t in tiles_of] == want
            assert all(set(t.int().tolist()) <= {0, n} for t, n in zip(tiles_of, want, strict=True))


def test_columns_of_out_stand_as_answers_travel():
    """Word k of lane q's 16 bytes of answers is the pair 4 k + q of 16: so must be the weights that meet it."""
    w = torch.arange(2048.0).expand(1024, 2048)
    order = as_held(w)[0].view(-1, 4, 4, 2)  # [32 columns, lane, word, of a pair]
    for lane in range(4):
        for word in range(4):
            assert order[3, lane, word].tolist() == [3 * 32 + 8 * word + 2 * lane, 3 * 32 + 8 * word + 2 * lane + 1]


def loop_of(monkeypatch, rope, entering) -> tuple[flow_loop.FlowLoop, GemmaLayer]:
    """π0's, of one layer and two steps."""
    for module in (flow_loop, flow_ahead):
        monkeypatch.setattr(module, "kernel", lambda *_: None)
    layer = GemmaLayer(*(torch.zeros(s) for s in ((2560, 1024), (1024, 2048), (8192, 1024), (1024, 4096))))
    enter, leave = (torch.ones(1024, 32), torch.ones(1024)), (torch.ones(32, 1024), torch.ones(32))
    turns, mix = [Turn(None, enter), Turn(leave, enter), Turn(leave, None)], torch.zeros(1024, 1024)
    sizes = {"key_rows": 100, "tokens": 51, "steps": 2}
    return flow_loop.FlowLoop([layer], turns, None, mix, entering, rope, keep=False, **sizes), layer


def test_parameters_stand_where_the_kernels_look_for_them(monkeypatch):
    """`struct Params` of flow.cuh, name by name, against the addresses that FlowLoop writes."""
    rope, entering = (torch.zeros(128, 128), torch.ones(128, 128)), torch.zeros(64, 1024)
    loop, layer = loop_of(monkeypatch, rope, entering)
    assert layer.qkv is None  # its memory is given back

    text = (Path(flow_loop.__file__).parent / "flow.cuh").read_text()
    members = re.search(r"struct Params \{(.*?)\};", text, re.DOTALL)[1].split(";")
    names = [re.sub(r".*[ *]", "", n.strip()) for m in members for n in m.split(",") if n.strip()]
    assert names[0] == "weights[LAYERS]"
    at = dict(zip(names, loop._params.tolist(), strict=True))
    assert (at["cos"], at["sin"], at["entering"]) == tuple(t.data_ptr() for t in (*rope, entering))
    assert at["counters"] == loop._counters.data_ptr()
    assert (at["chunks"], at["steps"], at["tokens"]) == (2, 2, 51)
    held = {t.data_ptr(): t for t in loop._keep}
    shapes = {"h": 16 * 7 * 512, "q": 32 * 7 * 512, "att": 32 * 7 * 512, "act": 64 * 7 * 512, "mixed": 16 * 7 * 512,
              "ss": 64 * 16, "xg": 64 * 1024, "leave_w": 2 * 32 * 1024, "leave_b": 64, "enter_w": 32 * 1024,
              "enter_b": 2 * 1024, "strength": 2}  # fmt: skip
    assert {n: held[at[n]].numel() for n in shapes} == shapes
    assert held[at["strength"]].tolist() == [
        float("inf"),
        pytest.approx(2.0),
    ]  # at times 1, which `most` bounds, and 1/2


def test_counters_begin_behind_the_layers_that_are_done(monkeypatch):
    """What flow.cuh counts, by its names; whatever a run before has left."""
    loop, _ = loop_of(monkeypatch, (torch.zeros(128, 128),) * 2, torch.zeros(64, 1024))
    text = (Path(flow_loop.__file__).parent / "flow.cuh").read_text()
    names = re.search(r"enum \{ (.*?) \};", text)[1]
    assert names == "C_TURN, C_QKV, C_O, C_DOWN, C_ENTER, C_ATT, C_ACT = C_ATT + 8, C_AHEAD = C_ACT + 4, C_READY"
    done = [50, 240, 240, 240, 120, *[16] * 8, *[60] * 4, 0, 0]
    for first, want in ((0, [0] * 19), (2, done), (0, [0] * 19), (2, done)):
        loop._counters.fill_(77)
        loop.begin(first)
        assert loop._counters.view(-1, 32)[:19, 0].tolist() == want
        assert loop._counters.sum() == sum(want)
    loop.ready.add_(3)
    assert loop._counters.view(-1, 32)[18].tolist() == [3, *[0] * 31]


WITH_LOADERS = [p for p in sorted(Path(flow_loop.__file__).parent.glob("*.cu")) if "more_registers<" in p.read_text()]


@pytest.mark.parametrize("source", WITH_LOADERS, ids=lambda p: p.stem)
def test_warpgroups_ask_for_no_more_registers_than_a_program_has(source):
    """setmaxnreg waits until there are enough: one too many, and the kernel stands still for ever."""
    text = source.read_text()
    threads = int(re.search(r"__launch_bounds__\((\d+), 1\)", text)[1])
    given = 65536 // threads // 8 * 8  # a thread's, at the launch
    fewer, more = (int(re.search(rf"{kind}_registers<(\d+)>", text)[1]) for kind in ("fewer", "more"))
    assert threads == 384 and fewer + 2 * more == 3 * given
