# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whole steps on a GPU: the golden files, calls that must not change each other, replays that repeat, no stray access."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from golden import Golden
from test_fused_runner import CUDA, close, request

from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.model.geometry import PI0, PI05

REPLAYS = 10_000


@pytest.mark.parametrize("name", ["pi05", "pi0"])
@torch.inference_mode()
def test_golden_geometry(name):
    """bf16 kernels against LeRobot's fp32 results."""
    golden = Golden(f"{name}_float32")
    asked = SimpleNamespace(
        pixel_values=golden.images, camera_mask=golden.cameras, input_ids=golden.given["tokens"],
        lang_lens=golden.lengths, noise=golden.given["noise"], state=golden.given["state"] if name == "pi0" else None,
    )  # fmt: skip
    model = golden.model(torch.bfloat16).to(CUDA)
    runner = FusedRunner(model, cameras=3, max_batch=2, steps=golden.steps)
    close(runner.run(asked), golden.expected["actions"])


@pytest.mark.parametrize("geometry", [PI05, PI0], ids=["pi05", "pi0"])
@torch.inference_mode()
def test_calls_do_not_change_each_other(geometry):
    """Prompt lengths and camera sets in a random order: every call gives the bits that it gave the first time."""
    runner = FusedRunner(blank_model(geometry, CUDA, torch.bfloat16), cameras=3, max_batch=1, steps=2)
    lengths = [n for n in (1, 15, 16, 17, 48, 199, 200) if n <= geometry.prompt_len]
    masks = [[True, True, True], [True, False, True], [False, False, True]]
    cases = [
        request(geometry, [n], masks=[mask], seed=i) for i, (n, mask) in enumerate(itertools.product(lengths, masks))
    ]
    first = [runner.run(r) for r in cases]
    order = random.Random(0)
    for _ in range(300):
        i = order.randrange(len(cases))
        assert torch.equal(runner.run(cases[i]), first[i]), f"case {i}"


@torch.inference_mode()
def test_replays_repeat():
    """One camera, a short prompt and one step, so that ten thousand fit in a minute; `bench` checks every full step."""
    runner = FusedRunner(blank_model(replace(PI05, chunk=50), CUDA, torch.bfloat16), cameras=1, max_batch=1, steps=1)
    asked = request(PI05, [16], cameras=1)
    first = runner.run(asked)
    for i in range(REPLAYS):
        assert torch.equal(runner.run(asked), first), f"replay {i}"
    (step,) = runner.expert.step_ms()  # by the kernel's own stamps
    assert 0.5 * runner.stage_ms()["expert"] < step < runner.stage_ms()["expert"]


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
def test_no_stray_access():
    script = Path(__file__).with_name("small_steps.py")
    ran = subprocess.run(
        ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1", sys.executable, str(script)],
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0 and "ERROR SUMMARY: 0 errors" in ran.stdout, (ran.stdout + ran.stderr)[-4000:]
