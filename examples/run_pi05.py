# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""π0.5 on dummy inputs: latency for one and four robots, and whether the actions are right.

    python examples/run_pi05.py                              # random weights, on a GPU
    python examples/run_pi05.py --checkpoint /data/pi05      # yours
    python examples/run_pi05.py --tiny                       # a toy model, without a GPU

Prints PASS or FAIL; the exit code says the same.
"""

from __future__ import annotations

import sys

import torch
from common import run

from pi_vla_ros.engine import PI05Args, PI05Request
from pi_vla_ros.model.geometry import PI05, Geometry


def request(g: Geometry, cameras: int, robots: int) -> PI05Request:
    """What a step is asked; the prompt holds the task and the state as tokens."""
    rng = torch.Generator().manual_seed(1)
    size = g.vision.image
    return PI05Request(
        pixel_values=torch.rand(robots, cameras, 3, size, size, generator=rng) * 2 - 1,
        input_ids=torch.randint(g.vocab, (robots, g.prompt_len), generator=rng),
        lang_lens=torch.arange(robots) * 7 % 40 + 48,
        noise=torch.randn(robots, g.chunk, g.action_dim, generator=rng),
    )


if __name__ == "__main__":
    sys.exit(run("pi05", PI05Args, PI05, request))
