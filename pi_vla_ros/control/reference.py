# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a chunk asks for, on the grid of a trajectory: action i belongs to `stamp + i * dt`, a cubic spline between."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from pi_vla_ros.types import ActionChunk


class Reference:
    """Target positions and their rates at any time; before the first and after the last action it rests there.

    Joints whose actions are velocities are integrated: their position is known only up to a constant, which
    `anchor` fixes.
    """

    def __init__(self, chunk: ActionChunk, velocity_joints: np.ndarray):
        """velocity_joints: (joints,) bool, where actions are velocities."""
        self._stamp, self._length = chunk.stamp, (len(chunk.actions) - 1) * chunk.dt
        times = np.arange(max(2, len(chunk.actions))) * chunk.dt  # a spline needs two points
        actions = chunk.actions if len(chunk.actions) > 1 else np.repeat(chunk.actions, 2, axis=0)
        self._spline = CubicSpline(times, actions)  # not-a-knot: exact for smooth chunks near their start
        self._integral = self._spline.antiderivative()
        self._velocity_joints = velocity_joints
        self._offset = np.zeros(len(velocity_joints))

    def anchor(self, time: float, position: np.ndarray) -> None:
        """Let the integrated joints be at `position` (joints,) at `time`."""
        self._offset = np.zeros_like(self._offset)
        self._offset = np.where(self._velocity_joints, position - self.at(np.array([time]))[0][0], 0.0)

    @property
    def end(self) -> float:
        """Time of the last action."""
        return self._stamp + self._length

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and its rate at `times` (K,): each (K, joints)."""
        t = np.clip(times - self._stamp, 0.0, self._length)
        moving = ((times >= self._stamp) & (times <= self.end))[:, None]
        spline, integrated = self._spline(t), self._velocity_joints
        position = np.where(integrated, self._integral(t), spline) + self._offset
        return position, np.where(moving, np.where(integrated, spline, self._spline(t, 1)), 0.0)
