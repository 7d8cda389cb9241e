# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A JointTrajectory straight from its bytes.

rclpy makes a Python object of every point first: 30 trajectories a second would take a tenth of a core from the control
loop. The encoding is CDR (XCDR1): every number stands at a multiple of its size, counted from byte 4; sequences and
strings begin with their length.
"""

from __future__ import annotations

import struct

import numpy as np

from pi_vla_ros.sim.controller import Command
from pi_vla_ros.sim.spline import Point


class Reader:
    """Reads one value after the other."""

    def __init__(self, data: bytes):
        if len(data) < 4 or data[:2] not in (b"\0\0", b"\0\1"):
            raise ValueError(f"not a CDR message: begins with {data[:4].hex()}")
        self._data = memoryview(data)[4:]
        order = "<" if data[1] else ">"
        self._pair, self._count = struct.Struct(order + "iI"), struct.Struct(order + "I")
        self._double = np.dtype(order + "f8")
        self._at = 0

    def _skip_to(self, size: int) -> int:
        self._at += -self._at % size
        return self._at

    def pair(self) -> tuple[int, int]:
        """A time or duration: seconds (signed), nanoseconds."""
        at = self._skip_to(4)
        self._at += 8
        return self._pair.unpack_from(self._data, at)

    def count(self) -> int:
        at = self._skip_to(4)
        self._at += 4
        return self._count.unpack_from(self._data, at)[0]

    def string(self) -> str:
        length = self.count()
        begin, self._at = self._at, self._at + length
        return bytes(self._data[begin : begin + length - 1]).decode()

    def doubles(self) -> np.ndarray | None:
        """(n,) float64; None where the sequence is empty."""
        length = self.count()
        if not length:
            return None
        begin = self._skip_to(8)
        self._at += 8 * length
        return np.frombuffer(self._data, self._double, length, begin)


def read_trajectory(data: bytes) -> Command:
    """A serialised trajectory_msgs/JointTrajectory."""
    reader = Reader(data)
    sec, nanosec = reader.pair()
    reader.string()  # frame_id
    names = [reader.string() for _ in range(reader.count())]
    points = [_point(reader) for _ in range(reader.count())]
    return Command(sec + nanosec * 1e-9, names, points)


def _point(reader: Reader) -> Point:
    positions, velocities = reader.doubles(), reader.doubles()
    accelerations, effort = reader.doubles(), reader.doubles()
    sec, nanosec = reader.pair()
    return Point(sec + nanosec * 1e-9, positions, velocities, accelerations, effort is not None)
