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

TINY = 1e-12
EXPONENTS = np.arange(6.0)[:, None]
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
        c, powers = self.coefficients[:, piece, joints], t**EXPONENTS
        return np.array(
            [
                (c * powers).sum(axis=0),
                (c[1:] * powers[:5] * EXPONENTS[1:]).sum(axis=0),
                (c[2:] * powers[:4] * (EXPONENTS[2:] * EXPONENTS[1:5])).sum(axis=0),
            ]
        )


class Stop:
    """From `state` (3, joints) to rest, each joint as soon as it can under acceleration and jerk limits.

    Where the velocity would go if the acceleration went to zero at once says which way to brake. Then: full jerk until
    the deceleration is at its peak, that for a while where it is all that is allowed, and full jerk back to zero.
    """

    def __init__(self, state: np.ndarray, limits: Limits):
        _, v, a = state
        most, jerk = limits.acceleration, limits.jerk
        self._coast = v + a * np.abs(a) / (2 * jerk)
        sign = np.copysign(1.0, self._coast)
        speed, now = sign * v, -sign * a  # seen along `sign`: what is to be taken away, and the deceleration so far
        peak = np.minimum(np.sqrt(np.maximum(jerk * speed + now * now / 2, 0.0)), most)
        peak = np.maximum(peak, now)
        left = speed - (peak * peak - now * now / 2) / jerk  # what the two ramps of the deceleration do not take
        middle = np.maximum(left, 0.0) / np.maximum(peak, TINY)
        self._spans = (peak - now) / jerk, middle, peak / jerk
        self._state, self._jerk = state, sign * jerk
        self._states = [state]  # at the begin of each piece
        for span, change in zip(self._spans, self._jerks, strict=True):
            p, v, a = self._states[-1]
            p = p + span * (v + span * (a / 2 + span * change / 6))
            self._states.append((p, v + span * (a + span * change / 2), a + span * change))
        self.end = p  # where it rests
        self.duration = float(sum(self._spans).max())

    @property
    def _jerks(self):
        return -self._jerk, 0.0 * self._jerk, self._jerk

    @property
    def way(self) -> Way:
        coefficients = np.zeros((6, 4, len(self.end)))
        for k, ((p, v, a), change) in enumerate(zip(self._states, self._jerks, strict=False)):
            coefficients[:4, k] = p, v, a / 2, change / 6
        coefficients[0, 3] = self.end
        return Way(self.duration, np.vstack([np.zeros_like(self.end), np.cumsum(self._spans, axis=0)]), coefficients)

    def extremes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lowest and highest position and largest speed on the way, each (joints,)."""
        p, v, a = self._state
        # a joint that decelerates so hard that it cannot stop at once turns first
        turns = v * self._jerk < 0
        root = np.sqrt(np.maximum(a * a + 2 * self._jerk * v, 0.0))
        t = np.where(turns, -2 * v / np.where(turns, a + np.copysign(root, a), 1.0), 0.0)
        turn = p + t * (v + t * (a / 2 - t * self._jerk / 6))
        places = np.array([p, turn, self.end])
        return places.min(axis=0), places.max(axis=0), np.maximum(np.abs(v), np.abs(self._coast))


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
        powers = duration**EXPONENTS
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
