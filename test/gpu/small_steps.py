# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A few steps of models that have the published widths and little depth, kernel by kernel: for compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 python test/gpu/small_steps.py

Without PyTorch's caching every tensor is an allocation of its own, so that an access behind its end is seen.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_fused_runner import CUDA, request

from pi_vla_ros.engine.fused.autotune import blank_model, shallow
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.model.geometry import PI0, PI05


@torch.inference_mode()
def main() -> None:
    for published, robots in ((PI05, 1), (PI0, 1), (PI05, 2)):
        g = replace(shallow(published), chunk=50 if robots == 1 else 7)
        runner = FusedRunner(blank_model(g, CUDA, torch.bfloat16), cameras=2, max_batch=robots, steps=2)
        runner.captured = False
        for length, mask in ((g.prompt_len, [True, True]), (3, [False, True])):
            actions = runner.run(request(g, [length] * robots, cameras=2, masks=[mask] * robots))
            assert torch.isfinite(actions).all()
        runner.close()
    print("done")


if __name__ == "__main__":
    main()
