# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: a chunk that agrees with what is still being executed of the one before.

Guided (arXiv 2506.07339, as LeRobot computes it, with the identity for the network's Jacobian): in every flow step the
velocity is corrected towards the previous chunk, strongly where actions will be executed before the new chunk can
take over, less and less after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

Schedule = Literal["zeros", "ones", "linear", "exp"]
SCHEDULES: tuple[Schedule, ...] = ("zeros", "ones", "linear", "exp")
MAX_GUIDANCE = 10.0


@dataclass(frozen=True)
class Guidance:
    """target: [B, H, A] the previous chunk in model units, aligned with the new one, 0 where it has ended;
    weights: [B, H], 0 where nothing is asked."""

    target: Tensor
    weights: Tensor
    most: float = MAX_GUIDANCE


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


def strength(t: float, most: float = MAX_GUIDANCE) -> float:
    """How strongly flow time t (1 noise, 0 action) is guided; `most` where the formula runs to infinity."""
    tau = 1.0 - t
    if tau == 0.0:
        return most
    if tau == 1.0:
        return 0.0
    spread = ((1 - tau) ** 2 + tau**2) / (1 - tau) ** 2
    return min((1 - tau) / tau * spread, most)


def guide(velocity: Tensor, x: Tensor, t: float, guidance: Guidance) -> Tensor:
    """velocity, x: [B, H, A] at flow time t -> the corrected velocity."""
    ending = x - t * velocity
    error = (guidance.target - ending) * guidance.weights[..., None]
    return velocity - strength(t, guidance.most) * error
