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

Jerk is not this module's: `smoothing` makes of such a motion one whose acceleration has no steps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import maximum_filter1d

from pi_vla_ros.robot import RobotConfig

# Share of the acceleration limit that is used to close in on the reference: what it needs itself to turn within the
# next moments is kept back, so that the joint does not arrive faster than it can slow down. At least, at most:
APPROACH = 0.15, 0.8
MOMENTS = 0.25  # s
ENDLESS = 1e6  # rad: the range of a continuous joint
PATIENCE = 8  # steps between two looks whether the reference may be taken as it is again


@dataclass(frozen=True)
class Limits:
    """Per joint, each (joints,): rad or m, per s, per s², per s³ (infinite where there is none)."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray = field(default_factory=lambda: np.array(np.inf))

    @classmethod
    def of(cls, robot: RobotConfig) -> Limits:
        joints = robot.joints
        return cls(
            np.array([-ENDLESS if j.continuous else j.position[0] for j in joints]),
            np.array([ENDLESS if j.continuous else j.position[1] for j in joints]),
            np.array([j.velocity for j in joints]),
            np.array([j.acceleration for j in joints]),
            np.array([np.inf if j.jerk is None else j.jerk for j in joints]),
        )

    def kept(self, h: float) -> Limits:
        """The limits that a plan with steps of h keeps: a finite jerk for every joint, at most the one asked for."""
        return dataclasses.replace(self, jerk=2 * self.acceleration / (self.window(h) * h))

    def window(self, h: float) -> int:
        """Steps of the running mean that keeps the jerk limits: full acceleration may turn to full braking."""
        return max(1, math.ceil(float(np.max(2 * self.acceleration / self.jerk)) / h - 1e-9))


@dataclass(frozen=True)
class Limited:
    """A limited motion: states after each step, (steps, joints), and by how much which limit cut the reference."""

    positions: np.ndarray
    velocities: np.ndarray
    cut: np.ndarray  # (3, steps, joints): position (rad or m), velocity (per s), acceleration (per s²); 0: not cut


def follow(p: np.ndarray, v: np.ndarray, target: np.ndarray, rate: np.ndarray, limits: Limits, h: float) -> Limited:
    """Follow `target` and its `rate` (steps, joints) from state p, v (joints,), as closely as the limits allow.

    Where the limits allow the reference it is taken as it is (to within A·h²/2: a parabola a step).
    """
    low, high = _reachable(p, v, limits, h)
    within = Limits(low, high, limits.velocity, limits.acceleration)
    positions, velocities, wished, ranged = (np.empty_like(target) for _ in range(4))
    least, most = -limits.velocity, limits.velocity
    change = limits.acceleration * h
    stop = _stopping_distance(limits.velocity, limits, h) + limits.velocity * h
    near_low, near_high = low + stop, high - stop  # between them the range cannot bind
    goal = target - rate * (h / 2)
    spare = _spare(rate, limits, h) * h
    per_step = 1 / (spare * h)
    k, look = 0, 0
    while k < len(target):
        if k == look:
            look += PATIENCE
            taken = _as_it_is(p, v, target[k:], rate[k:], within, h)
            if taken is not None:
                count = len(taken)
                positions[k : k + count], velocities[k : k + count] = taken, rate[k : k + count]
                wished[k : k + count] = ranged[k : k + count] = rate[k : k + count]
                k += count
                if k == len(target):
                    break
                p, v, look = taken[-1], rate[k - 1], k + PATIENCE
        # seen from a reference that moves evenly during the step: close the gap, end at its speed
        gap = goal[k] - p - v * (h / 2)
        units = np.abs(gap) * per_step[k]
        whole = np.floor((np.sqrt(1 + 8 * units) - 1) / 2)
        w = rate[k] + np.copysign(spare[k] * (whole + (units - whole * (whole + 1) / 2) / (whole + 1)), gap)
        wished[k] = w
        if ((p < near_low) | (p > near_high)).any():
            drift = v * (h / 2)
            w = np.minimum(np.maximum(w, -_cap(p - low + drift, limits, h)), _cap(high - p - drift, limits, h))
        ranged[k] = w
        w = np.minimum(np.maximum(np.minimum(np.maximum(w, least), most), v - change), v + change)
        p = p + (v + w) * (h / 2)
        v = w
        positions[k], velocities[k] = p, v
        k += 1
    slow = np.clip(ranged, least, most)
    beyond = np.maximum(np.maximum(low - target, target - high), np.abs(wished - ranged) * h)
    hard = np.abs(slow - velocities)
    cut = np.stack(
        [
            np.where(wished != ranged, beyond, 0.0),
            np.abs(ranged - slow),
            np.where(hard > 1e-9 * change, hard / h, 0.0),
        ]
    )
    return Limited(positions, velocities, cut)


def _as_it_is(p, v, target, rate, limits: Limits, h: float) -> np.ndarray | None:
    """Positions (count, joints) of the first steps that may just have the reference's rates; None if there are none.

    The speed is the reference's at every step and even between them: the trapezoid's error does not add up.
    """
    before = np.vstack([v, rate[:-1]])
    run = p + np.cumsum((before + rate) * (h / 2), axis=0)
    room = _stopping_distance(np.abs(rate), limits, h)
    legal = (
        (np.abs(rate - before) <= limits.acceleration * h)
        & (np.abs(rate) <= limits.velocity)
        & (np.abs(run - target) <= limits.acceleration * (h * h / 2))
        & (run + np.where(rate > 0, room, 0.0) <= limits.high)
        & (run - np.where(rate < 0, room, 0.0) >= limits.low)
    ).all(axis=1)
    count = len(legal) if legal.all() else int(np.argmin(legal))
    return run[:count] if count else None


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
