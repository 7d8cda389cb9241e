# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reading a trajectory: state at a time, and the largest speed and acceleration anywhere in it."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.types import Trajectory


def sample(trajectory: Trajectory, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity (joints,) at `time` s: cubic Hermite between knots, at rest outside of them."""
    state = motion(trajectory, time)
    return state[0], state[1]


def motion(trajectory: Trajectory, time: float) -> np.ndarray:
    """Position, velocity and acceleration at `time` s, (3, joints)."""
    at = time / trajectory.step - trajectory.first
    last = len(trajectory.positions) - 1
    state = np.zeros((3, trajectory.positions.shape[1]))
    if at <= 0 or at >= last:
        state[0] = trajectory.positions[0 if at <= 0 else last]
        return state
    k = int(at)
    s, h = at - k, trajectory.step
    r = 1 - s
    p0, p1 = trajectory.positions[k : k + 2]
    np.subtract(p1, p0, out=state[0])
    state[1:] = trajectory.velocities[k : k + 2]
    state = np.array(  # of the way, of the velocity at its begin, of that at its end
        [
            [s * s * (3 - 2 * s), h * s * r * r, -h * s * s * r],
            [6 * s * r / h, r * (1 - 3 * s), s * (3 * s - 2)],
            [(6 - 12 * s) / (h * h), (6 * s - 4) / h, (6 * s - 2) / h],
        ]
    ).dot(state)
    state[0] += p0
    return state


def accelerations(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Acceleration at the start and at the end of every segment, both (knots - 1, joints); linear between."""
    h, p, v = trajectory.step, trajectory.positions, trajectory.velocities
    d = np.diff(p, axis=0) / h
    return (6 * d - 4 * v[:-1] - 2 * v[1:]) / h, (-6 * d + 2 * v[:-1] + 4 * v[1:]) / h


def jerks(trajectory: Trajectory) -> np.ndarray:
    """Largest jerk of each joint, (joints,): within the segments, and of any step of the acceleration at a knot but
    the first (there it comes from somewhere else), spread over one segment."""
    begin, end = accelerations(trajectory)
    within = np.abs(end - begin).max(axis=0, initial=0.0)
    between = np.abs(np.vstack([begin[1:], np.zeros_like(begin[:1])]) - end).max(axis=0)
    return np.maximum(within, between) / trajectory.step


def peaks(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Exact extremes over the whole curve, each (joints,): lowest, highest, largest speed, largest acceleration."""
    h, p, v = trajectory.step, trajectory.positions, trajectory.velocities
    a0, a1 = accelerations(trajectory)
    jerk = (a1 - a0) / h
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -a0 / jerk  # where a segment's speed is extreme
        inner = (jerk != 0) & (t > 0) & (t < h)
        t = np.where(inner, t, 0.0)
        speed = np.abs(np.where(inner, v[:-1] + a0 * t + jerk * t * t / 2, 0.0))
    low, high = p.min(axis=0), p.max(axis=0)
    for root in _roots(jerk / 2, a0, v[:-1]):  # where a segment's position is extreme
        t = np.where((root > 0) & (root < h), root, 0.0)
        x = p[:-1] + t * (v[:-1] + t * (a0 / 2 + t * jerk / 6))
        low, high = np.minimum(low, x.min(axis=0, initial=np.inf)), np.maximum(high, x.max(axis=0, initial=-np.inf))
    return (
        low,
        high,
        np.maximum(np.abs(v).max(axis=0), speed.max(axis=0, initial=0.0)),
        np.maximum(np.abs(a0), np.abs(a1)).max(axis=0, initial=0.0),
    )


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real roots of a t² + b t + c, elementwise; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -0.5 * (b + np.copysign(np.sqrt(b * b - 4 * a * c), b))  # the stable form
        return q / a, c / q
