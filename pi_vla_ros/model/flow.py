# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The flow loop: from noise (t = 1) to actions (t = 0) in Euler steps."""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.model.pi import PiModel, Prefix
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance, guide

STEPS = 10


def times(steps: int) -> list[float]:
    """Flow times at which the velocity is evaluated: 1, 1 − 1/N, ..., 1/N."""
    return [1.0 - i / steps for i in range(steps)]


def sample(
    model: PiModel,
    prefix: Prefix,
    noise: Tensor,
    state: Tensor | None = None,
    steps: int = STEPS,
    rtc: Chunking | None = None,
) -> Tensor:
    """noise [B, H, A] fp32 -> actions [B, H, A] fp32, in model units. x_t stays fp32 whatever the model runs in."""
    committed = rtc if isinstance(rtc, Committed) else None
    x = committed.hold(noise) if committed else noise
    for t in times(steps):
        time = committed.times(t) if committed else torch.full((len(x),), t, dtype=torch.float32, device=x.device)
        velocity = model.velocity(prefix, x, time, state)
        if isinstance(rtc, Guidance):
            velocity = guide(velocity, x, t, rtc)
        x = x - velocity / steps
        if committed:
            x = committed.hold(x)
    return x
