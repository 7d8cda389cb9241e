# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How firmly real-time chunking holds on to the chunk before: over its actions, and over flow time. No torch."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Schedule = Literal["zeros", "ones", "linear", "exp"]


def schedule_weights(schedule: Schedule, delay: int, end: int, horizon: int) -> np.ndarray:
    """(horizon,) in 0..1. delay: actions that are executed before the new chunk arrives; end: execution horizon."""
    start = min(delay, end)
    i = np.arange(horizon)
    if schedule == "zeros":
        return (i < start).astype(float)
    if schedule == "ones":
        return (i < end).astype(float)
    between = end - start
    ramp = np.clip((between - (i - start)) / (between + 1), 0.0, 1.0)
    if schedule == "exp":
        ramp = ramp * np.expm1(ramp) / (math.e - 1)
    return np.where(i < start, 1.0, np.where(i < end, ramp, 0.0))


def strength(t: float) -> float:
    """How strongly flow time t (1 noise, 0 action) is guided, before `Guidance.most` bounds it: infinite at 1."""
    tau = 1.0 - t
    if tau == 0.0:
        return math.inf
    if tau == 1.0:
        return 0.0
    spread = ((1 - tau) ** 2 + tau**2) / (1 - tau) ** 2
    return (1 - tau) / tau * spread
