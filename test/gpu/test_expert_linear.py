# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The expert's products of several robots in CUDA: each against PyTorch in fp32, inputs new in every run, and a whole chain
of them, overlapping in a graph, against the same chain one by one."""

from __future__ import annotations

import random

import pytest
import torch

if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("needs a Hopper GPU", allow_module_level=True)

from expert_products import CLUSTERS, MLP, WIDTH, Batch, geglu, qkv, residual

from pi_vla_ros.kernels.expert_linear import (
    GEGLU,
    QKV,
    RESIDUAL,
    SUMMED,
    built,
    cut_for,
    expert_geglu,
    expert_qkv,
    expert_residual,
)
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.kernels.qkv import rope_tables

CUDA = "cuda"
BATCHES = [
    Batch(4, 50, device=CUDA), Batch(4, 51, plain=True, device=CUDA), Batch(3, 50, (0, 5, 50), device=CUDA),
    Batch(2, 63, device=CUDA), Batch(4, 63, (3, 0, 62, 7), device=CUDA), Batch(2, 10, device=CUDA),
    Batch(2, 51, plain=True, device=CUDA), Batch(4, 64, device=CUDA), Batch(3, 63, plain=True, device=CUDA),
    Batch(4, 10, (1, 2, 3, 4), device=CUDA), Batch(5, 50, device=CUDA),
]  # fmt: skip


@pytest.fixture(autouse=True)
def new_numbers():
    seed = random.SystemRandom().getrandbits(31)
    print("seed", seed)  # shown when a test fails
    torch.manual_seed(seed)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_equals_pytorch(batch):
    qkv(batch)
    qkv(batch, parts=1)  # behind a turn
    qkv(batch, parts=32)  # behind π0's mixing
    residual(batch)
    residual(batch, k=MLP)
    geglu(batch)


def test_clusters_fit():
    """All programs of a launch at once, as cut_for assumes for an H200."""
    for m in 100, 200, 204, 252:
        for epilogue, n in (QKV, 2560), (RESIDUAL, WIDTH), (GEGLU, 2 * MLP):
            cut = cut_for(epilogue, m)
            found = built(epilogue, cut, False).clusters(cut.shares, 2 * cut.rows + 64)
            print(m, cut, found)
            assert found >= CLUSTERS[cut.shares] and found * cut.shares >= cut.programs(m, n)


@pytest.mark.parametrize("batch", BATCHES[:4], ids=str)
def test_a_chain_of_layers(batch):
    """Six layers' products, each reading what the one before wrote: overlapping launches in a graph leave the bits that
    launches one by one do, in each of 100 replays."""
    layers, rows, tokens = 6, batch.rows, batch.tokens
    w = [[batch.random(n, k, size=k**-0.5) for n, k in ((2560, WIDTH), (WIDTH, 2048), (2 * MLP, WIDTH), (WIDTH, MLP))]
         for _ in range(layers)]  # fmt: skip
    tables = [[batch.table(n) for n in (2560, 2 * MLP)] for _ in range(layers)]
    gates = [[None if (t := batch.table(WIDTH)) is None else 0.3 * t for _ in range(4)] for _ in range(layers)]
    x, h = batch.nothing(rows, WIDTH, dtype=torch.float32), batch.nothing(rows, WIDTH)
    q, mlp = batch.nothing(rows, 2048), batch.nothing(rows, MLP)
    keys, values = batch.nothing(2, layers, batch.robots, 100 + tokens, 256)
    sums = [Stats(batch.nothing(WIDTH // SUMMED, rows, dtype=torch.float32), WIDTH) for _ in range(2)]
    delay = batch.delay  # once: nothing is copied while a graph is captured
    first, starts = torch.randn(rows, WIDTH, device=CUDA), batch.whole([17 * i for i in range(batch.robots)])
    rope = rope_tables(100 + tokens, 256, torch.device(CUDA))
    again = [x, h, q, mlp, keys, values, *(s.buffer for s in sums)]

    def run(pdl: bool) -> None:
        for t in again:
            t.fill_(float("nan"))
        x.copy_(first)
        h.copy_(first)
        sums[1].buffer.copy_(first.unflatten(1, (WIDTH // SUMMED, -1)).square().sum(-1).T)
        common = {"delay": delay, "pdl": pdl}
        for i in range(layers):
            expert_qkv(
                h, w[i][0], sums[1], rope, q, keys[i], values[i], tokens, start=starts, bias=tables[i][0], **common
            )
            common["tokens"] = tokens
            expert_residual(q, w[i][1], x, h, gates[i][0], gates[i][1], sums[0], **common)
            expert_geglu(h, w[i][2], mlp, sums[0], bias=tables[i][1], **common)
            expert_residual(mlp, w[i][3], x, h, gates[i][2], gates[i][3], sums[1], **common)
            del common["tokens"]

    run(False)
    torch.cuda.synchronize()
    wants = [t.clone() for t in again]
    assert x.isfinite().all() and h.isfinite().all() and mlp.isfinite().all() and q.isfinite().all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(True)
    for _ in range(100):
        graph.replay()
        torch.cuda.synchronize()
        for got, want in zip(again, wants, strict=True):
            assert torch.equal(got.nan_to_num(), want.nan_to_num())
