# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Does the arm go where it is told? A joint that stays off its command means a collision, a fault, or a wrong robot."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import Trajectory


class TrackingGuard:
    """Trips when a joint's measured position is off by more than its `tracking` for `motion.tracking_time`."""

    def __init__(self, robot: RobotConfig):
        self._names, self._patience = robot.joint_names, robot.motion.tracking_time
        self._allowed = np.array([np.inf if j.tracking is None else j.tracking for j in robot.joints])
        self._turns = np.array([j.continuous for j in robot.joints])
        self._since: float | None = None

    def check(self, trajectory: Trajectory, measured: np.ndarray, time: float) -> str | None:
        """measured: (joints,) at `time`. None, or what is wrong."""
        error = np.abs(measured - sample(trajectory, time)[0])
        error = np.where(self._turns, np.abs((error + np.pi) % (2 * np.pi) - np.pi), error)
        if (error <= self._allowed).all():
            self._since = None
            return None
        self._since = time if self._since is None else self._since
        if time - self._since < self._patience:
            return None
        worst = int(np.argmax(error / self._allowed))
        return (
            f"'{self._names[worst]}' is {error[worst]:.3f} off its command for {self._patience} s; allowed: its "
            f"'tracking' ({self._allowed[worst]}). Is the controller running, is the arm blocked?"
        )

    def reset(self) -> None:
        self._since = None
