# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Position, velocity and acceleration limits that hold everywhere, whatever the reference asks.

Time goes in steps of h with constant acceleration in each, so a motion is a piecewise parabola and its limits can be
checked exactly. The rule that makes the limits hold together: a joint never moves so fast that braking as hard as
allowed, from the next step on, would end beyond its range. Braking in whole steps from speed v covers

    D(v) = sum of v·h/2 + (v − A·h)·h + (v − 2·A·h)·h + ...

which is piecewise linear in v with corners at k·A·h, so the fastest allowed next speed has a closed form (`_approach`).
The same function, applied to the distance to the reference, gives a time-optimal approach without overshoot that
lands exactly (in two steps once it is near).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pi_vla_ros.robot import RobotConfig

# Share of the acceleration limit that is used to close in on the reference: the rest is for following it as it turns.
APPROACH = 0.8


@dataclass(frozen=True)
class Limits:
    """Per joint, each (joints,): rad or m, per s, per s²."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def of(cls, robot: RobotConfig) -> Limits:
        joints = robot.joints
        return cls(
            np.array([j.position[0] for j in joints]),
            np.array([j.position[1] for j in joints]),
            np.array([j.velocity for j in joints]),
            np.array([j.acceleration for j in joints]),
        )


@dataclass(frozen=True)
class Limited:
    """A limited motion: states after each step, (steps, joints), and where which limit cut the reference."""

    positions: np.ndarray
    velocities: np.ndarray
    clipped: np.ndarray  # (3, steps, joints) bool: position, velocity, acceleration


def follow(p: np.ndarray, v: np.ndarray, target: np.ndarray, rate: np.ndarray, limits: Limits, h: float) -> Limited:
    """Follow `target` and its `rate` (steps, joints) from state p, v (joints,), as closely as the limits allow."""
    low, high = _reachable(p, v, limits, h)
    most = limits.acceleration * h
    positions, velocities = np.empty_like(target), np.empty_like(target)
    clipped = np.zeros((3, *target.shape), dtype=bool)
    for k in range(len(target)):
        # seen from a reference that moves evenly during the step: close the gap, end at its speed
        gap = target[k] - rate[k] * h - p - (v - rate[k]) * (h / 2)
        wish = rate[k] + np.copysign(_approach(np.abs(gap), APPROACH * limits.acceleration, h), gap)
        w = np.minimum(np.maximum(wish, -_cap(p - low + v * (h / 2), limits, h)), _cap(high - p - v * (h / 2), limits, h))
        clipped[0, k] = w != wish
        slow = np.minimum(np.maximum(w, -limits.velocity), limits.velocity)
        clipped[1, k] = slow != w
        w = np.minimum(np.maximum(slow, v - most), v + most)
        clipped[2, k] = np.abs(w - slow) > 1e-9 * most
        p = p + (v + w) * (h / 2)
        v = w
        positions[k], velocities[k] = p, v
    return Limited(positions, velocities, clipped)


def brake(p: np.ndarray, v: np.ndarray, limits: Limits, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Stop as hard as allowed: states after each step, (steps, joints); the last velocity is exactly zero."""
    most = limits.acceleration * h
    steps = max(1, int(np.ceil(np.max(np.abs(v) / most))))
    left = np.maximum(np.abs(v) - most * np.arange(1, steps + 1)[:, None], 0.0)
    left[-1] = 0.0
    velocities = np.copysign(left, v)
    before = np.vstack([v, velocities[:-1]])
    return p + np.cumsum((before + velocities) * (h / 2), axis=0), velocities


def braking_steps(limits: Limits, h: float) -> int:
    """Steps that stopping from full speed takes."""
    return int(np.ceil(np.max(limits.velocity / (limits.acceleration * h))))


def _approach(distance: np.ndarray, acceleration: np.ndarray, h: float) -> np.ndarray:
    """Largest speed w after this step such that w·h/2 plus braking from w covers no more than `distance` >= 0."""
    unit = acceleration * h * h
    k = np.floor((np.sqrt(1 + 8 * distance / unit) - 1) / 2)  # whole braking steps: k (k + 1) / 2 units fit
    return k * (acceleration * h) + (distance - k * (k + 1) / 2 * unit) / ((k + 1) * h)


def _cap(room: np.ndarray, limits: Limits, h: float) -> np.ndarray:
    """Largest speed towards a bound that is `room` away; without room, the speed that gets back inside."""
    return np.where(room >= 0, _approach(np.maximum(room, 0.0), limits.acceleration, h), 2 * room / h)


def _reachable(p: np.ndarray, v: np.ndarray, limits: Limits, h: float) -> tuple[np.ndarray, np.ndarray]:
    """The position range, widened where the start lies outside (a measured state may): never further out, never a
    jump back in."""
    stop = brake(p, v, limits, h)[0][-1]
    return np.minimum(limits.low, np.minimum(p, stop)), np.maximum(limits.high, np.maximum(p, stop))
