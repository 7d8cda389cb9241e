# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Chunks that a policy node said, from a bag: its `action_chunk` topic, as the demo and `record` write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from pi_vla_ros.motion_bench.chunks import Arrival, ChunksError, Truth
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk

MESSAGE = "pi_vla_ros/msg/ActionChunk"
NANO = 1e-9
MEANT = 0.3  # s: what chunks say about their first moments counts as what the policy wants


class Recorded:
    """The chunks of one bag, in the order of their arrival; times count from the first observation, s."""

    def __init__(self, path: Path, robot: RobotConfig):
        """Raises ChunksError."""
        self._path, self._names = path, robot.joint_names
        self._types = get_typestore(Stores.ROS2_JAZZY)
        text = package_file("msg/ActionChunk.msg").read_text(encoding="utf-8")
        self._types.register(get_types_from_msg(text, MESSAGE))
        self._begin = 0.0
        first = next(self._read(), None)
        if first is None:
            raise ChunksError(f"{path}: no chunk: no message of type {MESSAGE}")
        self._begin = first.chunk.stamp
        self.count = sum(1 for _ in self.arrivals())

    def arrivals(self) -> Iterator[Arrival]:
        """One in memory at a time. A chunk that is no news is left out: the node would not have sent it."""
        stamp = time = -np.inf
        for arrival in self._read():
            if arrival.chunk.stamp > stamp and arrival.time > max(time, arrival.chunk.stamp):
                stamp, time = arrival.chunk.stamp, arrival.time
                yield arrival

    def wanted(self) -> Truth:
        """What the policy wanted at each time, had it no delay: the mean of what its chunks say about their first
        moments, the nearer the more."""
        grid = next(self.arrivals()).chunk.dt
        sums: dict[int, np.ndarray] = {}
        for arrival in self.arrivals():
            chunk = arrival.chunk
            for ahead, action in enumerate(chunk.actions[: max(2, int(MEANT / chunk.dt))]):
                weight = 1 - ahead * chunk.dt / (MEANT + chunk.dt)
                at = round((chunk.stamp + ahead * chunk.dt) / grid)
                sums[at] = sums.get(at, 0.0) + weight * np.append(action, 1.0)
        ticks = np.array(sorted(sums))
        rows = np.array([sums[t] for t in ticks])
        times, means = ticks * grid, rows[:, :-1] / rows[:, -1:]
        return lambda at: np.stack([np.interp(at, times, column) for column in means.T], axis=1)

    def _read(self) -> Iterator[Arrival]:
        try:
            with Reader(self._path) as reader:
                connections = [c for c in reader.connections if c.msgtype == MESSAGE]
                for _, received, data in reader.messages(connections) if connections else ():
                    yield self._arrival(self._types.deserialize_cdr(data, MESSAGE), received)
        except ChunksError:
            raise
        except Exception as error:  # rosbags, zstd, lz4 and SQLite each raise their own
            raise ChunksError(f"{self._path}: cannot be read as a bag ({error})") from error

    def _arrival(self, message, received: int) -> Arrival:
        if list(message.names) != self._names:
            raise ChunksError(
                f"{self._path}: chunks for joints {list(message.names)}, the robot has {self._names}: --robot?"
            )
        actions = message.actions.reshape(message.horizon, len(message.names))
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * NANO
        return Arrival(ActionChunk(actions, stamp - self._begin, message.dt), received * NANO - self._begin)
