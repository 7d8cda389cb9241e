# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fused runner on the golden inputs, on Triton's CPU interpreter: LeRobot's actions, in fp32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

import triton
from golden import Golden

from pi_vla_ros.engine.fused.runner import FusedRunner

if not triton.knobs.runtime.interpret:
    pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["pi05", "pi0"])
@torch.inference_mode()
def test_ten_steps(name):
    golden = Golden(f"{name}_float32")
    asked = SimpleNamespace(
        pixel_values=golden.images, camera_mask=golden.cameras, input_ids=golden.given["tokens"], rtc=None,
        lang_lens=golden.lengths, noise=golden.given["noise"], state=golden.given["state"] if name == "pi0" else None,
    )  # fmt: skip
    runner = FusedRunner(golden.model(), cameras=3, max_batch=2, steps=golden.steps)
    assert (runner.run(asked) - golden.expected["actions"]).abs().max() <= 5e-5
