# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Between two points of a trajectory, as ros2_controllers does it.

Linear, cubic or quintic, by what both points give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """One point of a trajectory; vectors are (joints,), rad or m. None: not given.

    time:   s from the trajectory's start (ROS clock for a point that was measured).
    effort: whether the point gave efforts.
    """

    time: float
    positions: np.ndarray
    velocities: np.ndarray | None = None
    accelerations: np.ndarray | None = None
    effort: bool = False


def between(a: Point, b: Point, time: float) -> tuple[np.ndarray, np.ndarray]:
    """(positions, velocities) at `time`, which is held inside [a.time, b.time]."""
    span = b.time - a.time
    t = min(max(time - a.time, 0.0), span)
    if a.velocities is None or b.velocities is None:
        slope = (b.positions - a.positions) / span
        return a.positions + slope * t, slope
    if a.accelerations is None or b.accelerations is None:
        return _evaluate(_cubic(a, b, span), t)
    return _evaluate(_quintic(a, b, span), t)


def _cubic(a: Point, b: Point, span: float) -> list[np.ndarray]:
    way = b.positions - a.positions
    return [
        a.positions,
        a.velocities,
        3 * way / span**2 - (2 * a.velocities + b.velocities) / span,
        -2 * way / span**3 + (a.velocities + b.velocities) / span**2,
    ]


def _quintic(a: Point, b: Point, span: float) -> list[np.ndarray]:
    # what is left to do after running on with a's velocity and acceleration
    way = b.positions - a.positions - a.velocities * span - a.accelerations * span**2 / 2
    speed = b.velocities - a.velocities - a.accelerations * span
    push = b.accelerations - a.accelerations
    return [
        a.positions,
        a.velocities,
        a.accelerations / 2,
        (10 * way - 4 * speed * span + push * span**2 / 2) / span**3,
        (-15 * way + 7 * speed * span - push * span**2) / span**4,
        (6 * way - 3 * speed * span + push * span**2 / 2) / span**5,
    ]


def _evaluate(coefficients: list[np.ndarray], t: float) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope of a polynomial (Horner), lowest power first."""
    value, slope = np.zeros_like(coefficients[0]), np.zeros_like(coefficients[0])
    for c in reversed(coefficients):
        slope = slope * t + value
        value = value * t + c
    return value, slope
