# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ways from one state of motion to another under position, velocity, acceleration and jerk limits.

Two kinds, both polynomials in pieces. A *crossing* is one polynomial of the fifth degree from a state to another at a
given time; it may not fit into the limits. A *stop* comes to rest, each joint as soon as it can: it always exists. And
at rest a crossing to any place in the range fits, if it takes long enough (`patience`). So there is always a way.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from pi_vla_ros.control.limiter import Limits

PARTS = 16  # in which the bounds of a polynomial are taken: the more, the tighter
# Largest velocity, acceleration and jerk of the quintic from rest to rest over a distance of 1 in a time of 1, with
# what their bounds are too large by (test_control_bridge.py).
QUINTIC = 1.9, 5.9, 63.0


@dataclass(frozen=True)
class Way:
    """duration:     s, after which every joint goes on as the last piece ends.
    starts:       (pieces, joints) s, ascending from 0, in which each piece begins.
    coefficients: (6, pieces, joints): position in powers of the time since then.
    """

    duration: float
    starts: np.ndarray
    coefficients: np.ndarray

    def at_time(self, time: float) -> np.ndarray:
        """Position, velocity, acceleration (3, joints) at `time` s."""
        time = min(max(time, 0.0), self.duration)
        joints = np.arange(self.starts.shape[1])
        piece = (self.starts <= time).sum(axis=0) - 1
        t = time - self.starts[piece, joints]
        state = np.zeros((3, len(joints)))
        p, v, a = state
        for c in self.coefficients[::-1, piece, joints]:
            a[:] = a * t + 2 * v
            v[:] = v * t + p
            p[:] = p * t + c
        return state


@dataclass(frozen=True)
class Stop:
    """A way to rest and its exact extremes, each (joints,)."""

    way: Way
    low: np.ndarray
    high: np.ndarray
    speed: np.ndarray
    end: np.ndarray  # where it rests


def stop(state: np.ndarray, limits: Limits) -> Stop:
    """From `state` (3, joints) to rest, each joint as soon as it can under acceleration and jerk limits.

    Where the velocity would be if the acceleration went to zero at once says which way to brake. Then: full jerk until
    the deceleration is `peak`, that for a while where it is all that is allowed, and full jerk back to zero.
    """
    p, v, a = state
    most, jerk = limits.acceleration, limits.jerk
    coast = v + a * np.abs(a) / (2 * jerk)
    sign = np.where(coast < 0, -1.0, 1.0)
    speed, now = sign * v, -sign * a  # seen along `sign`: what is to be taken away, and the deceleration so far
    peak = np.sqrt(np.maximum(jerk * speed + now * now / 2, 0.0))
    peak = np.maximum(np.minimum(peak, most), now)
    first, last = (peak - now) / jerk, peak / jerk
    lost = (2 * peak * peak - now * now) / (2 * jerk)
    middle = np.where(peak > 0, np.maximum(speed - lost, 0.0) / np.where(peak > 0, peak, 1.0), 0.0)
    pieces, starts, time = [], [], np.zeros_like(p)
    for span, change in ((first, -sign * jerk), (middle, 0.0 * sign), (last, sign * jerk)):
        starts.append(time)
        pieces.append(np.stack([p, v, a / 2, change / 6]))
        p = p + span * (v + span * (a / 2 + span * change / 6))
        v = v + span * (a + span * change / 2)
        a = a + span * change
        time = time + span
    starts.append(time)
    pieces.append(np.stack([p, 0 * p, 0 * p, 0 * p]))
    coefficients = np.zeros((6, 4, len(p)))
    coefficients[:4] = np.stack(pieces, axis=1)
    way = Way(float(time.max()), np.stack(starts), coefficients)
    turn = _turn(*state, sign * jerk)
    return Stop(
        way, np.minimum(np.minimum(state[0], p), turn), np.maximum(np.maximum(state[0], p), turn),
        np.maximum(np.abs(state[1]), np.abs(coast)), p,
    )  # fmt: skip


def _turn(p: np.ndarray, v: np.ndarray, a: np.ndarray, jerk: np.ndarray) -> np.ndarray:
    """Where a joint turns that has to: it decelerates so hard that it cannot stop at once. Elsewhere p.
    jerk: signed, against which it brakes."""
    turns = v * jerk < 0
    root = np.sqrt(np.maximum(a * a + 2 * jerk * v, 0.0))
    t = np.where(turns, -2 * v / np.where(turns, a + np.copysign(root, a), 1.0), 0.0)
    return p + t * (v + t * (a / 2 - t * jerk / 6))


def patience(distance: np.ndarray, limits: Limits) -> float:
    """s in which a crossing from rest to rest over `distance` (joints,) fits into the limits."""
    velocity, acceleration, jerk = QUINTIC
    far = np.abs(distance)
    return float(
        np.max(
            np.maximum(
                np.maximum(velocity * far / limits.velocity, np.sqrt(acceleration * far / limits.acceleration)),
                np.cbrt(jerk * far / limits.jerk),
            )
        )
    )


class Crossings:
    """Quintics from one state (3, joints) to each of several (ways, 3, joints), in `durations` (ways,) s."""

    def __init__(self, begin: np.ndarray, ends: np.ndarray, durations: np.ndarray):
        self._durations = t = durations[:, None]
        p, v, a = begin[0], begin[1] * t, begin[2] * (t * t / 2)
        gap = ends[:, 0] - p - v - a  # what is left of position, velocity, acceleration at the end
        speed = ends[:, 1] * t - v - 2 * a
        bend = ends[:, 2] * (t * t) - 2 * a
        # p + v s + a s² + ... in powers of the share s of the duration: (6, ways, joints)
        self._coefficients = np.stack(
            [
                np.broadcast_to(p, gap.shape),
                v,
                a,
                10 * gap - 4 * speed + bend / 2,
                -15 * gap + 7 * speed - bend,
                6 * gap - 3 * speed + bend / 2,
            ]
        )

    def within(self, limits: Limits) -> np.ndarray:
        """(ways,): which keep the limits for certain."""
        ways, joints = self._coefficients.shape[1:]
        flat = self._coefficients.reshape(6, -1)
        t = self._durations
        legal = np.ones((ways, joints), dtype=bool)
        ranges = (limits.low, limits.high), *((-x, x) for x in (limits.velocity, limits.acceleration, limits.jerk))
        for order, (low, high) in enumerate(ranges):
            points = HULLS[order] @ flat
            scale = t**order
            legal &= points.max(axis=0).reshape(ways, joints) <= high * scale
            legal &= points.min(axis=0).reshape(ways, joints) >= low * scale
        return legal.all(axis=1)

    def way(self, k: int) -> Way:
        duration = float(self._durations[k, 0])
        powers = duration ** np.arange(6.0)[:, None]
        joints = self._coefficients.shape[2]
        return Way(duration, np.zeros((1, joints)), (self._coefficients[:, k] / powers)[:, None])


def _hull(order: int) -> np.ndarray:
    """(points, 6): coefficients of a quintic on 0..1 -> Bézier points of its `order`-th derivative in each of PARTS
    parts. A polynomial lies within the hull of these."""
    degree = 5 - order
    derive = np.eye(6)
    for _ in range(order):
        derive = np.diag(np.arange(1.0, len(derive)), 1)[: len(derive) - 1, : len(derive)] @ derive
    bezier = [[comb(j, m) / comb(degree, m) for m in range(degree + 1)] for j in range(degree + 1)]
    points = []
    for k in range(PARTS):
        shifted = [[comb(i, m) * k ** (i - m) / PARTS**i if i >= m else 0.0 for i in range(degree + 1)]
                   for m in range(degree + 1)]  # fmt: skip
        points.append(np.array(bezier) @ np.array(shifted) @ derive)
    return np.vstack(points)


HULLS = tuple(_hull(order) for order in range(4))
