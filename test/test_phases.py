# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A step of the fused runner opens a range for each of its phases."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

pytest.importorskip("triton")

import triton

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.engine.phases import PHASES
from pi_vla_ros.model.geometry import tiny

if not triton.knobs.runtime.interpret:
    pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1", allow_module_level=True)


@torch.inference_mode()
def test_ranges_of_a_step():
    g = tiny("pi05", chunk=3, prompt_len=16)
    runner = FusedRunner(random_model(g), cameras=1, max_batch=1, steps=3)
    asked = SimpleNamespace(
        pixel_values=torch.rand(1, 1, 3, 56, 56), camera_mask=torch.ones(1, 1, dtype=torch.bool), state=None, rtc=None,
        input_ids=torch.randint(g.vocab, (1, 5)), lang_lens=torch.tensor([5]), noise=torch.randn(1, 3, 32),
    )  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU]) as tracer:
        runner.run(asked)
    ranges = {name: [e.time_range for e in tracer.events() if e.name == name] for name in PHASES}
    assert {name: len(found) for name, found in ranges.items()} == {
        "vision": 1, "lang_pack": 1, "prefix": 1, "expert": 1, "expert_step": 3,
    }  # fmt: skip
    inside = {"lang_pack": "prefix", "expert_step": "expert"}
    for inner, outer in inside.items():
        (around,) = ranges[outer]
        assert all(around.start <= r.start and r.end <= around.end for r in ranges[inner])
    order = [ranges[name][0] for name in ("vision", "prefix", "expert")]
    assert all(a.end <= b.start for a, b in itertools.pairwise(order))
