# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One command of the stream as a message: positions for joints, a twist for the axes of the end effector."""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from pi_vla_ros.ros.messages import time_message

TYPES = {
    "float64_multi_array": Float64MultiArray,
    "joint_trajectory_point": JointTrajectoryPoint,
    "joint_trajectory": JointTrajectory,
}


class JointCommand:
    """Fills messages of one of `TYPES` for joints `names`, `period` s apart.

    ahead: s after now for which positions and velocities have to be given: a point that says "one period from now"
    tells where to be then.
    """

    def __init__(self, kind: str, names: list[str], period: float):
        self.type = TYPES[kind]
        self.ahead = period if kind == "joint_trajectory_point" else 0.0
        self._kind, self._names = kind, names
        self._after = Duration(nanosec=round(period * 1e9))

    def message(self, positions: np.ndarray, velocities: np.ndarray):
        """positions, velocities: (names,) rad or m, per s."""
        p = array("d", positions.tobytes())  # an array is taken as it is, a list checked entry by entry
        if self._kind == "float64_multi_array":
            return Float64MultiArray(data=p)
        if self._kind == "joint_trajectory_point":
            v = array("d", velocities.tobytes())
            return JointTrajectoryPoint(positions=p, velocities=v, time_from_start=self._after)
        # As a joint_trajectory_controller needs it. No velocities: it refuses a last point that moves. Stamp and time
        # 0, "be there now": it begins each trajectory at the measured state, and with new ones at least as often as it
        # samples them, one that takes any time would never get away from there.
        return JointTrajectory(joint_names=self._names, points=[JointTrajectoryPoint(positions=p)])


def joint_positions(message) -> np.ndarray:
    """(n,) of a message of any of `TYPES`."""
    if isinstance(message, JointTrajectory):
        message = message.points[-1]
    return np.array(message.data if isinstance(message, Float64MultiArray) else message.positions)


def twist_message(frame: str, now: float, velocities: dict[str, float]) -> TwistStamped:
    """velocities: axis ('linear.x') -> m/s or rad/s; axes that are not given stand still. now: s, ROS clock."""
    message = TwistStamped()
    message.header.frame_id, message.header.stamp = frame, time_message(now)
    for axis, value in velocities.items():
        part, letter = axis.split(".")
        setattr(getattr(message.twist, part), letter, value)
    return message
