# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a chunk asks for, on the grid of a trajectory: action i belongs to `stamp + i * dt`, a curve between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator, make_interp_spline

from pi_vla_ros.robot import Joint
from pi_vla_ros.types import ActionChunk

TURN = 2 * np.pi
ROUNDING = 1e-9  # s
FAR = 1e9  # rad or m, and per s: nothing is further; squares of it are finite


class Reference:
    """Target positions and their rates at any time; before the first and after the last action it rests there.

    Joints whose actions are velocities are integrated: their position is known only up to a constant, which
    `anchor` fixes. So is that of continuous joints, up to whole turns.
    """

    def __init__(self, chunk: ActionChunk, joints: Sequence[Joint], lead: float = 0.0):
        """lead: s by which the commands run ahead of the policy's time (the controller's lag)."""
        self._stamp, self._length = chunk.stamp - lead, (len(chunk.actions) - 1) * chunk.dt
        actions = np.clip(chunk.actions, -FAR, FAR)
        actions = actions if len(actions) > 1 else np.repeat(actions, 2, axis=0)
        self._times = np.arange(len(actions)) * chunk.dt
        self._velocity_joints = np.array([j.action.kind == "velocity" for j in joints])
        self._continuous = np.array([j.continuous for j in joints])
        self._actions = np.where(self._continuous & ~self._velocity_joints, np.unwrap(actions, axis=0), actions)
        self._spline = CubicSpline(self._times, self._actions)  # not-a-knot: exact for smooth chunks near their start
        self._integral = self._spline.antiderivative()
        self._others = [(k, j.interpolation) for k, j in enumerate(joints) if j.interpolation != "cubic"]
        self._offset = np.zeros(len(joints))

    def anchor(self, time: float, position: np.ndarray) -> None:
        """Let integrated joints be at `position` (joints,) at `time`, and continuous ones within half a turn of it."""
        self._offset = np.zeros_like(self._offset)
        gap = position - self.at(np.array([time]))[0][0]
        turns = np.where(self._continuous, TURN * np.round(gap / TURN), 0.0)
        self._offset = np.where(self._velocity_joints, gap, turns)

    @property
    def end(self) -> float:
        """Time of the last action."""
        return self._stamp + self._length

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and its rate at `times` (K,): each (K, joints)."""
        t = np.clip(times - self._stamp, 0.0, self._length)
        moving = ((times >= self._stamp) & (times <= self.end))[:, None]
        value, rate = self._spline(t), self._spline(t, 1)
        for k, kind in self._others:
            value[:, k], rate[:, k] = _INTERPOLATION[kind](self._times, self._actions[:, k], t)
        integrated = self._velocity_joints
        position = np.where(integrated, self._integral(t), value) + self._offset
        return position, np.where(moving, np.where(integrated, value, rate), 0.0)


def _monotone(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    curve = PchipInterpolator(times, values)
    return curve(t), curve(t, 1)


def _quintic(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continuous up to the fourth derivative; of a lower degree where a chunk has fewer than six actions."""
    degree = min(5, 2 * (len(times) // 2) - 1)
    curve = make_interp_spline(times, values, k=degree)
    return curve(t), curve(t, 1)


def _linear(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    segment = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    return np.interp(t, times, values), (np.diff(values) / np.diff(times))[segment]


def _hold(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps: the limiter makes ramps of them."""
    at = np.searchsorted(times, t + ROUNDING, side="right") - 1
    return values[at], np.zeros_like(t)


_INTERPOLATION = {"quintic": _quintic, "monotone": _monotone, "linear": _linear, "hold": _hold}
