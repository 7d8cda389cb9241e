# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""flow_ahead.cu on the CPU: what it leaves behind for the flow loop, against the fp32 model's layers.

The step as a whole, flow loop included: test_cuda_on_cpu.py.
"""

from __future__ import annotations

import copy

import pytest
import test_cuda_on_cpu as flows
import torch
from cuda_on_cpu import with_cpu

from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.tuning import default_for
from pi_vla_ros.kernels import flow_ahead
from pi_vla_ros.kernels.flow_loop import C_AHEAD, C_READY, groups_of, tiles
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.rtc import Committed

slow = pytest.mark.slow


class Ahead:
    def __init__(self, monkeypatch, name: str, chunk: int, length: int, depth: int, rtc: str = "off"):
        self.layers: list[torch.Tensor] = []  # of the fp32 model: the tokens behind every layer of the first step

        def watched(model, *given):
            for layer in model.expert.layers:
                layer.register_forward_hook(lambda _layer, _given, out: self.layers.append(out[0][0]))
            return sample(model, *given)

        monkeypatch.setattr(flows, "sample", watched)
        self.flow = flows.Flow(monkeypatch, name, chunk, length, 1, depth, rtc)
        self.depth = depth

    def run(self, layers: int) -> tuple[torch.Tensor, ...]:
        """x [T, 1024], h [T, 1024] and Σx² [T] behind so many layers."""
        f = self.flow
        stage = ExpertStage(
            copy.deepcopy(f._model), 1, f._rows, 1, torch.bfloat16, default_for(90), False, f._rope, f._kind
        )
        loop, t = stage._resident, stage._tokens
        if f._state is not None:
            w, b = stage._state_proj
            stage._entering[0] = f._state[0] @ w.T + b
        counters = loop._counters.view(-1, 32)
        counters[C_READY, 0] = layers
        keys, values = (p.clone() for p in f._prefix)
        committed = f._rtc if isinstance(f._rtc, Committed) else None
        run = flow_ahead.built(groups_of(t), f._state is not None, self.depth, f._kind == "trained")
        x, lengths = f._noise[0].clone(), torch.tensor([f._length], dtype=torch.int32)
        flow_ahead.launch(run, loop._params, x, lengths, keys, values, keys.stride(0) // (64 * 256), layers,
                          committed and committed.target, committed and committed.delay)  # fmt: skip
        phases = 1 + (f._state is not None) + 5 * layers
        assert counters[C_AHEAD, 0] == phases * flow_ahead.PROGRAMS
        named = dict(zip(NAMES, loop._keep[self.depth :], strict=False))
        blocks = named["h"].view(16, -1, 64)
        h = torch.cat([tiles(b[:64], len(b[:64])).view(-1, 64) for b in blocks], 1)[:t]
        scale = 0 if f._state is not None else named["scale"][2 * layers]
        return named["xg"][:t].clone(), h.float(), named["ss"][:t].sum(1), scale


NAMES = "mix", "h", "q", "att", "act", "mixed", "ss", "xg", "shift_qkv", "shift_up", "scale"


@pytest.mark.parametrize(
    ("name", "chunk", "length", "depth", "layers", "rtc", "seed"),
    [
        ("pi05", 10, 70, 2, 1, "off", 1),
        pytest.param("pi0", 10, 70, 2, 1, "off", 2, marks=slow),
        pytest.param("pi05", 50, 968, 3, 2, "off", 3, marks=slow),
        pytest.param("pi05", 63, 65, 2, 1, "trained", 4, marks=slow),
        pytest.param("pi0", 50, 788, 3, 2, "guided", 5, marks=slow),
    ],
)
@torch.inference_mode()
def test_what_it_leaves(monkeypatch, name, chunk, length, depth, layers, rtc, seed):
    with_cpu(monkeypatch, seed)
    ahead = Ahead(monkeypatch, name, chunk, length, depth, rtc)
    x, h, squares, scale = ahead.run(layers)
    want = ahead.layers[layers - 1]
    flows.close(x, want, 8e-3)
    if rtc == "trained":
        committed = torch.arange(chunk)[:, None] < chunk // 3
        scale = torch.where(committed, scale[1], scale[0])
    flows.close(h, x * (1 + scale), 4e-3)
    flows.close(squares, x.square().sum(1), 1e-5)
