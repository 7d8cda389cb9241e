# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""flow_clusters.cu on the CPU (cuda_on_cpu/), and how its weights are packed."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton")

from cuda_on_cpu import with_cpu
from test_cuda_on_cpu import Flow, close

from pi_vla_ros.engine.fused import stages
from pi_vla_ros.kernels.flow_clusters import FlowClusters, packed_layer

slow = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(
    autouse=True,
    params=[{}, pytest.param({"by_head": True}, marks=slow), pytest.param({"multicast": False}, marks=slow)],
    ids=str,
)
def clusters(monkeypatch, request):
    torch.manual_seed(0)
    monkeypatch.setattr(stages, "FlowLoop", functools.partial(FlowClusters, **request.param))


CASES = [
    ("pi05", 10, 70, 1, 1, False, 1),
    ("pi0", 10, 70, 1, 1, False, 1),
    pytest.param("pi05", 50, 968, 2, 1, True, 2, marks=slow),
    pytest.param("pi05", 50, 816, 1, 2, False, 7, marks=slow),
    pytest.param("pi0", 50, 1, 2, 1, True, 3, marks=slow),
    pytest.param("pi05", 63, 65, 2, 2, False, 4, marks=slow),  # more than 56 tokens: another build
    pytest.param("pi05", 63, 1088, 1, 2, False, 6, marks=slow),  # a second round of chunks
    pytest.param("pi0", 63, 1088, 1, 2, False, 5, marks=slow),
    pytest.param("pi0", 50, 2100, 1, 1, False, 8, marks=slow),
]


@pytest.mark.parametrize(("name", "chunk", "length", "steps", "layers", "guided", "seed"), CASES)
@torch.inference_mode()
def test_flow(monkeypatch, name, chunk, length, steps, layers, guided, seed):
    with_cpu(monkeypatch, seed)
    flow = Flow(monkeypatch, name, chunk, length, steps, layers, guided)
    got = flow.run()
    print("relative error", float((got - flow.want).norm() / flow.want.norm()))
    close(got, flow.want, 8e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["pi05", "pi0"])
@torch.inference_mode()
def test_every_order(monkeypatch, name):
    """Whoever comes first, and with one slow program in each cluster (seeds from 100 on): the same bits."""
    flow, runs = Flow(monkeypatch, name, 10, 600, 2, 2), []
    for seed in (*range(6), 100, 103, 107):
        with_cpu(monkeypatch, seed)
        runs.append(flow.run())
    assert all(torch.equal(r, runs[0]) for r in runs)


def test_a_layer_holds_every_weight_once():
    sizes = (2560, 1024), (1024, 2048), (8192, 1024), (1024, 4096)
    layer = packed_layer(*(torch.ones(s) for s in sizes))
    assert layer.shape == (120, 8 * 3072 + 28 * 4608)
    assert layer.sum() == sum(a * b for a, b in sizes)
