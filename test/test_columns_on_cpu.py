# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""kernels/hopper_columns.cu on the CPU (cuda_on_cpu/), as test_cuda_on_cpu.py does for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from cuda_on_cpu import with_cpu
from test_cuda_on_cpu import CPU, NAN, SPACE, close, positions, random, rows, slow

from pi_vla_ros.engine.fused import stages as engine
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.tuning import default_for
from pi_vla_ros.kernels import hopper_columns
from pi_vla_ros.kernels.hopper_columns import MOST, better_by_columns, cut, residual_columns, stages
from pi_vla_ros.kernels.hopper_linear import Matrix, Rows, packed, qkv_width, residual_linear, rounds
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.model.geometry import GemmaGeometry, tiny

N, K = 512, 1024


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """So few programs that hundreds of rows make tiles of more than 64."""
    torch.manual_seed(0)
    monkeypatch.setattr(hopper_columns, "PAIRS", 8)


def room() -> Stats:
    return Stats(torch.full((N // 64, SPACE), NAN), N)


def test_a_cut_covers_all_tokens_at_once(monkeypatch):
    monkeypatch.undo()
    for m in range(1, 1100):
        pairs, t = cut(m, 2048)
        assert t >= 64 and t % 8 == 0 and 2 * pairs * t >= m > 2 * (pairs - 1) * t and pairs * 16 <= 64
    assert [cut(m, 2048) for m in (304, 788, 816, 976)] == [(3, 64), (4, 104), (4, 104), (4, 128)]
    assert [cut(m, 2048) for m in (1044, 1072, 1224, 1480)] == [(4, 136), (4, 136), (4, 160), (4, 192)]


def test_columns_where_rows_take_a_round_too_many(monkeypatch):
    """Three cameras as measured: down below 897 rows, out nowhere. More than 8 tiles of rows: as long as tiles fit."""
    monkeypatch.undo()
    assert [m for m in range(1, 5000) if better_by_columns(m, 2048, 16384)] == [*range(1, 897), *range(1025, 1537)]
    assert [m for m in range(1, 5000) if better_by_columns(m, 2048, 2048)] == [*range(1025, 1537)]


def test_the_width_of_qkv_leaves_a_program_the_least_columns():
    """64 pairs of programs: 160 wide, 8 tiles of rows are a round of 64; 256 wide, 12 are one of 60."""
    assert [rounds(m, 2560, 160) for m in (1024, 1025, 2048, 3904)] == [1, 2, 2, 4]
    assert [rounds(m, 2560, 256) for m in (1024, 1025, 1536, 1537)] == [1, 1, 1, 2]
    wide = [m for m in range(1, 4000) if qkv_width(m, 2560) == 256]
    assert wide == [*range(1025, 1537), *range(3073, 3201)]  # where the others take 2 rounds, and 4 instead of 2


def test_what_a_program_holds():
    for t in range(64, MOST + 8, 8):
        assert 1024 + stages(t) * (128 * 128 + t * 128 + 16) + 32 * t <= 232448 and stages(t) >= 4


SIZES = [(257, 72), (300, 80), (340, 88), (384, 96), (447, 112), (512, 128), (609, 160), (768, 192)]


@pytest.mark.parametrize(
    ("m", "tokens"),
    [(130, 64), (543, 136), *(pytest.param(*size, marks=slow) for size in ((1, 64), (393, 104), *SIZES))],
)
def test_residual(monkeypatch, m, tokens):
    with_cpu(monkeypatch, seed=m)
    assert cut(m, N)[1] == tokens
    a, w, x, stats = rows(m, K), random(N, K, size=1 / 32), rows(m, N), room()
    want = x[:m].float() + a[:m].float() @ w.float().T
    residual_columns(Rows.of(a), m, Matrix.of(packed(w), 128), x, stats, pdl=False)
    close(x[:m], want)
    close(stats.buffer[:, :m], want.unflatten(1, (-1, 64)).square().sum(-1).T, 1e-4)
    assert x[m:].isnan().all() and stats.buffer[:, m:].isnan().all()


@pytest.mark.parametrize("m", [200, pytest.param(543, marks=slow)])
def test_both_products_share_a_weight(monkeypatch, m):
    """Two writers of one stream: what the other one left in x and in the row sums is no matter."""
    with_cpu(monkeypatch, seed=5)
    a, w, x, stats = rows(m, K), random(N, K, size=1 / 32), rows(m, N), room()
    matrix, product = Matrix.of(packed(w), 128), a[:m].float() @ w.float().T
    for add in (residual_columns, residual_linear, residual_columns):
        want = x[:m].float() + product
        add(Rows.of(a), m, matrix, x, stats, pdl=False)
        close(x[:m], want)
        close(stats.buffer[:, :m].sum(0), want.square().sum(-1), 1e-4)


def test_too_many_rows_are_refused(monkeypatch):
    with_cpu(monkeypatch)
    x = rows(769, N)
    with pytest.raises(ValueError, match="769 rows make tiles of 200 tokens; up to 192 fit"):
        residual_columns(Rows.of(rows(769, K)), 769, Matrix.of(packed(random(N, K)), 128), x, room(), pdl=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("m", [300, 543])
def test_every_order_the_same_bits(monkeypatch, m):
    a, w, x = rows(m, K), random(N, K, size=1 / 32), rows(m, N)
    runs = []
    for seed in range(8):
        with_cpu(monkeypatch, seed)
        y, stats = x.clone(), room()
        residual_columns(Rows.of(a), m, Matrix.of(packed(w), 128), y, stats, pdl=False)
        runs.append((y[:m], stats.buffer[:, :m]))
    assert all(torch.equal(p, q) for run in runs for p, q in zip(run, runs[0], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.inference_mode()
def test_a_prefix_takes_either(monkeypatch):
    """The stage with `down` by columns (two pairs of tiles), with `out` too and QKV in wider tiles, with rows only: the
    same keys and values."""
    with_cpu(monkeypatch, 1)
    monkeypatch.setattr(engine, "available", lambda _: True)
    size, geometry = 150, tiny("pi05")
    language = GemmaGeometry(width=512, depth=3, mlp=512, heads=8, head_dim=256)
    expert = replace(geometry.expert, depth=3, heads=8, head_dim=256)
    geometry, made, taken = replace(geometry, language=language, expert=expert), [], []
    x = random(size, 512)
    by_columns = engine.residual_columns
    monkeypatch.setattr(
        engine, "residual_columns", lambda *a, **k: (taken.append(a[2].w.shape[1]), by_columns(*a, **k))
    )
    out, down = 8 * 256, 512  # depths of the two products
    for some, width in ({down}, 160), ({out, down}, 256), ({}, 160):
        monkeypatch.setattr(engine, "better_by_columns", lambda m, n, k, some=some: k in some)
        monkeypatch.setattr(engine, "qkv_width", lambda m, n, width=width: width)
        torch.manual_seed(1)
        model = blank_model(geometry, CPU, torch.bfloat16)
        stage = engine.PrefixStage(model, 1, size, size + 50, torch.bfloat16, default_for(90), False)
        stage.x.copy_(x)
        stage.sums.buffer.copy_(x.float().unflatten(1, (stage.sums.parts, -1)).square().sum(-1).T)
        no_words, lengths = torch.zeros(1, 0, 512), torch.tensor([size - 3], dtype=torch.int32)
        stage.launch(no_words, size, lengths, chunked=True)
        made.append(torch.stack([positions(t[-1, 0])[:size] for t in (stage.keys, stage.values)]))
    assert taken == [down, down, out, down, out, down]
    close(made[0], made[2].float(), 2e-2)
    close(made[1], made[2].float(), 2e-2)
