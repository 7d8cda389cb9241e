# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the policy said, what would have been commanded and what was demonstrated, as topics in an MCAP bag.

On the recording's clock, so that Foxglove, PlotJuggler or `ros2 bag play` show it beside the recording itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from pi_vla_ros.replay.source import NANO
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk

STATE, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
PREDICTED, COMMANDED, DEMONSTRATED = "/replay/predicted", "/replay/commanded", "/replay/demonstrated"
NONE = np.zeros(0)


class PredictionBag:
    """A bag folder that is complete when it is closed. Raises OSError."""

    def __init__(self, folder: Path, robot: RobotConfig):
        self._names = robot.joint_names
        self._velocity = np.array([j.action.kind == "velocity" for j in robot.joints])
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        kinds = {PREDICTED: TRAJECTORY, COMMANDED: STATE, DEMONSTRATED: STATE}
        self._connections = {t: self._writer.add_connection(t, k, typestore=self._store) for t, k in kinds.items()}

    def predicted(self, chunk: ActionChunk, now: int) -> None:
        """A chunk, stamped with its observation; joints whose actions are velocities have no positions."""
        make, points = self._store.types, []
        for k, actions in enumerate(chunk.actions):
            after = round(k * chunk.dt * NANO)
            positions = np.where(self._velocity, np.nan, actions)
            velocities = np.where(self._velocity, actions, np.nan) if self._velocity.any() else NONE
            duration = make["builtin_interfaces/msg/Duration"](after // NANO, after % NANO)
            point = make["trajectory_msgs/msg/JointTrajectoryPoint"](positions, velocities, NONE, NONE, duration)
            points.append(point)
        self._write(PREDICTED, now, make[TRAJECTORY](self._header(chunk.stamp), self._names, points))

    def tick(self, time: float, commanded: np.ndarray, demonstrated: np.ndarray) -> None:
        """Positions (joints,) at a tick, s; NaN where nothing is known."""
        for topic, positions in ((COMMANDED, commanded), (DEMONSTRATED, demonstrated)):
            message = self._store.types[STATE](self._header(time), self._names, positions, NONE, NONE)
            self._write(topic, round(time * NANO), message)

    def close(self) -> None:
        self._writer.close()

    def _header(self, time: float) -> Any:
        make, at = self._store.types, round(time * NANO)
        stamp = make["builtin_interfaces/msg/Time"](at // NANO, at % NANO)
        return make["std_msgs/msg/Header"](stamp, "")

    def _write(self, topic: str, now: int, message: Any) -> None:
        connection = self._connections[topic]
        self._writer.write(connection, now, self._store.serialize_cdr(message, connection.msgtype))
