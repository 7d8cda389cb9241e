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
from scipy.ndimage import maximum_filter1d

from pi_vla_ros.control.trajectory import accelerations
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import Trajectory

# Share of the acceleration limit that is used to close in on the reference: what it needs itself to turn within the
# next moments is kept back, so that the joint does not arrive faster than it can slow down. At least, at most:
APPROACH = 0.15, 0.8
MOMENTS = 0.25  # s
# A curve's speed is checked at its knots and half-way between; this keeps what may lie above between those legal.
LEGAL_SPEED = 0.995
ENDLESS = 1e6  # rad: the range of a continuous joint
ON_IT = 1e-9  # rad or m, and per s: nearer to the reference than anything can tell


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
            np.array([-ENDLESS if j.continuous else j.position[0] for j in joints]),
            np.array([ENDLESS if j.continuous else j.position[1] for j in joints]),
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
    """Follow `target` and its `rate` (steps, joints) from state p, v (joints,), as closely as the limits allow.

    Where the curve through target and rate keeps the limits, it is taken as it is.
    """
    low, high = _reachable(p, v, limits, h)
    positions, velocities = target.copy(), rate.copy()
    clipped = np.zeros((3, *target.shape), dtype=bool)
    legal = _legal(p, v, target, rate, Limits(low, high, limits.velocity, limits.acceleration), h)
    free = len(legal) if legal.all() else int(np.argmin(legal))  # steps before the first that needs limiting
    rest = len(legal) - int(np.argmin(legal[::-1])) if free < len(legal) else 0  # from here on none does
    if free:
        p, v = target[free - 1], rate[free - 1]
    spare = _spare(rate, limits, h)
    most, stop = limits.acceleration * h, _stopping_distance(limits.velocity, limits, h) + limits.velocity * h
    for k in range(free, len(target)):
        # seen from a reference that moves evenly during the step: close the gap, end at its speed
        gap = target[k] - rate[k] * h - p - (v - rate[k]) * (h / 2)
        w = wish = rate[k] + np.copysign(_approach(np.abs(gap), spare[k], h), gap)
        if ((p < low + stop) | (p > high - stop)).any():  # elsewhere the range cannot bind
            drift = v * (h / 2)
            w = np.minimum(np.maximum(wish, -_cap(p - low + drift, limits, h)), _cap(high - p - drift, limits, h))
            clipped[0, k] = w != wish
        slow = np.minimum(np.maximum(w, -limits.velocity), limits.velocity)
        clipped[1, k] = slow != w
        w = np.minimum(np.maximum(slow, v - most), v + most)
        clipped[2, k] = np.abs(w - slow) > 1e-9 * most
        p = p + (v + w) * (h / 2)
        v = w
        positions[k], velocities[k] = p, v
        if k >= rest and np.abs(p - target[k]).max() < ON_IT and np.abs(v - rate[k]).max() < ON_IT:
            break  # back on a curve that is legal to its end
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


def _spare(rate: np.ndarray, limits: Limits, h: float) -> np.ndarray:
    """(steps, joints): the acceleration that is free for closing in, beside what the reference's own turns need."""
    turn = np.abs(np.diff(rate, axis=0, append=rate[-1:])) / h
    count = 2 * int(MOMENTS / h / 2) + 1  # steps
    coming = maximum_filter1d(turn, count, axis=0, origin=-(count // 2))
    least, most = APPROACH
    return np.clip(limits.acceleration - coming, least * limits.acceleration, most * limits.acceleration)


def _legal(p, v, target, rate, limits: Limits, h: float) -> np.ndarray:
    """(steps,) bool: does this step of the curve through target and rate, from p, v on, keep all limits, and can it
    be braked after."""
    curve = Trajectory(0, h, np.vstack([p, target]), np.vstack([v, rate]))
    begin, end = accelerations(curve)
    middle = (curve.velocities[:-1] + curve.velocities[1:]) / 2 + (begin - end) * (h / 8)  # velocity at half a step
    room = _stopping_distance(np.abs(rate), limits, h)
    return (
        (np.maximum(np.abs(begin), np.abs(end)) <= limits.acceleration)
        & (np.maximum(np.abs(rate), np.abs(middle)) <= LEGAL_SPEED * limits.velocity)
        & (target + np.where(rate > 0, room, 0.0) <= limits.high)
        & (target - np.where(rate < 0, room, 0.0) >= limits.low)
    ).all(axis=1)


def _stopping_distance(speed: np.ndarray, limits: Limits, h: float) -> np.ndarray:
    """What braking in whole steps from `speed` covers, with the way within a step rounded up."""
    return speed * speed / (2 * limits.acceleration) + limits.acceleration * (h * h / 8) + speed * (h / 2)


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
