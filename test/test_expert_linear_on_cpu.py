# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""kernels/expert_linear.cu on the CPU (cuda_on_cpu/), as test_cuda_on_cpu.py does for the others."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

import triton
from cuda_on_cpu import with_cpu
from expert_products import CLUSTERS, MLP, NAN, WIDTH, Batch, close, geglu, qkv, residual
from test_cuda_on_cpu import CPU, poisoned, random, slow

from pi_vla_ros.engine.fused import expert_stage
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.tuning import default_for
from pi_vla_ros.kernels import expert_linear
from pi_vla_ros.kernels.expert_linear import GEGLU, MOST, QKV, RESIDUAL, cut_for
from pi_vla_ros.kernels.qkv import paired, rope_tables
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import GEMMA_300M, GemmaGeometry, tiny
from pi_vla_ros.model.pi import Prefix
from pi_vla_ros.model.rtc import Committed

PRODUCTS = [(QKV, 2560, WIDTH), (RESIDUAL, WIDTH, 2 * WIDTH), (RESIDUAL, WIDTH, MLP), (GEGLU, 2 * MLP, WIDTH)]  # n, k


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


# --- how products are cut ----------------------------------------------------------------------------------------


def test_everything_fits_at_once():
    for m in range(1, MOST + 1):
        for epilogue, n, k in PRODUCTS:
            cut = cut_for(epilogue, m)
            assert cut.tokens % 8 == 0 and cut.programs(m, n) <= CLUSTERS[cut.shares] * cut.shares
            assert n % cut.rows == 0 and -(-m // cut.tokens) <= 2 and cut.stages >= 4 and k // 64 >= cut.shares


# --- the products ------------------------------------------------------------------------------------------------

HELD, TWO, PLAIN = Batch(3, 10, (0, 3, 9)), Batch(2, 10), Batch(2, 9, plain=True)
EVERY = [
    (HELD, 1),
    (HELD, 102),
    pytest.param(TWO, 3, marks=slow),
    pytest.param(PLAIN, 104, marks=slow),
]  # and the order's seed


def on_cpu(monkeypatch, batch, seed):
    """All but TWO have their tokens in two tiles, as large batches have."""
    with_cpu(monkeypatch, seed)
    monkeypatch.setattr(expert_linear, "WHOLE", MOST if batch is TWO else 16)


@pytest.mark.parametrize(("batch", "seed"), EVERY)
def test_qkv(monkeypatch, batch, seed):
    on_cpu(monkeypatch, batch, seed)
    qkv(batch, heads=1, k=256)


@pytest.mark.parametrize(("batch", "seed"), EVERY)
def test_residual(monkeypatch, batch, seed):
    on_cpu(monkeypatch, batch, seed)
    residual(batch, n=256, k=640)


@pytest.mark.parametrize(("batch", "seed"), EVERY)
def test_geglu(monkeypatch, batch, seed):
    on_cpu(monkeypatch, batch, seed)
    geglu(batch, n=256, k=640)


BATCHES = [
    (Batch(4, 50), 1), (Batch(4, 51, plain=True), 2), (Batch(3, 50, (0, 5, 17)), 100), (Batch(2, 63), 4),
    (Batch(4, 63, (3, 0, 62, 7)), 105), (Batch(2, 10), 6), (Batch(2, 51, plain=True), 7), (Batch(4, 64), 8),
    (Batch(3, 63, plain=True), 111), (Batch(4, 10, (1, 2, 3, 4)), 12),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("batch", "seed"), BATCHES)
def test_the_published_sizes(monkeypatch, batch, seed):
    with_cpu(monkeypatch, seed)
    qkv(batch)
    residual(batch)
    residual(batch, k=MLP)
    geglu(batch)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("product", "sizes"),
    [(qkv, {"heads": 2, "k": 512}), (residual, {"n": 256, "k": 2048}), (geglu, {"n": 512, "k": 768})],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_in_every_order(monkeypatch, product, sizes):
    """Whoever comes first, and with one slow program in each cluster (seeds from 100 on): the same bits."""
    runs = []
    for seed in [*range(6), *range(100, 106)]:
        torch.manual_seed(0)
        with_cpu(monkeypatch, seed)
        runs.append(product(Batch(3, 50, (0, 4, 9)), **sizes))
    assert all(torch.equal(p, q) for run in runs for p, q in zip(run, runs[0], strict=True))


# --- the stage ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "trained"), [("pi05", False), ("pi05", True), ("pi0", False)])
@torch.inference_mode()
def test_a_stage_with_several_robots(monkeypatch, name, trained):
    """Two steps of two layers against the fp32 model, all but the turns between steps in CUDA, no Triton product."""
    if not triton.knobs.runtime.interpret:
        pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1")
    with_cpu(monkeypatch, 102)
    taken = []
    for of in "expert_qkv", "expert_residual", "expert_geglu":
        product = getattr(expert_linear, of)
        monkeypatch.setattr(expert_stage, of, lambda *a, of=of, p=product, **o: (taken.append(of), p(*a, **o)))
    for of in "qkv", "linear", *(["residual"] if name == "pi05" else []):
        monkeypatch.setattr(expert_stage, of, None)
    monkeypatch.setattr(expert_stage, "available", lambda _: True)
    layers, steps, robots, chunk, starts = 2, 2, 2, 10, [70, 33]
    language = GemmaGeometry(width=64, depth=layers, mlp=64, heads=8, head_dim=256)
    g = replace(tiny(name), language=language, expert=replace(GEMMA_300M, depth=layers), chunk=chunk)
    model = blank_model(g, CPU, torch.bfloat16)
    exact, space = copy.deepcopy(model).float(), max(starts) + g.suffix
    prefix, caches = random(2, layers, robots, max(starts), 256), []
    for t, turned in zip(prefix, (True, False), strict=True):
        cache = poisoned(layers, robots, space, 256)
        for robot, start in enumerate(starts):
            part = t[:, robot, :start]
            cache[:, robot, :start] = paired(part.flatten(0, 1).T, 256).T.view_as(part) if turned else part
        caches.append(cache)
    noise, target = torch.randn(robots, chunk, 32), torch.randn(robots, chunk, 32)
    state = torch.randn(robots, 32) if name == "pi0" else None
    rtc = Committed(target, torch.tensor([4, 0], dtype=torch.int32)) if trained else None
    keys, values = ([layer[:, None] for layer in t.float()] for t in prefix)
    valid = torch.arange(max(starts)) < torch.tensor(starts)[:, None]
    want = sample(exact, Prefix(keys, values, valid), noise, state, steps, rtc)
    rope = rope_tables(space, 256, CPU)
    tune = replace(default_for(90), resident=False)
    stage = expert_stage.ExpertStage(model, robots, space, steps, torch.bfloat16, tune, False, rope,
                                     "trained" if trained else "off")  # fmt: skip
    for buffer in stage._q, stage._seen, stage._mlp, *(s.buffer for s in stage._sums):
        buffer.fill_(NAN)
    x = noise.flatten(0, 1).clone()
    stage.launch(x, robots, max(starts), torch.tensor(starts, dtype=torch.int32), *caches, rope, state, rtc)
    close(x.view_as(want), want, 8e-3)
    assert taken == ["expert_qkv", "expert_residual", "expert_geglu", "expert_residual"] * (layers * steps)
