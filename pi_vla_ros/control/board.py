# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A trajectory in memory shared by two processes, under a sequence lock.

The memory is an anonymous file that is passed by descriptor: when both processes are gone, however they went, so is
it. One process writes trajectories, the other plays them and writes back what it did. A copy is valid when the
sequence number did not change meanwhile and the checksum fits, whatever order the processor's stores arrive in.
"""

from __future__ import annotations

import mmap
import os
import zlib

import numpy as np

from pi_vla_ros.types import Trajectory

CAPACITY = 4096  # knots

# Slots of the integer header.
SEQUENCE, GENERATION, FIRST, COUNT, JOIN, CHECKSUM, PLAYING, CLOSING = range(8)  # by the writer
TAKEN, REFUSED, SENT, BEAT = range(8, 12)  # by the player: last generation taken / refused, commands sent, its clock
INTERVALS = slice(0, 3)  # of the float header, by the player: p50, p99, max, ms
STEP = 3  # of the float header, by the writer


class TrajectoryBoard:
    """The shared memory, seen from either side. `joints` must agree."""

    def __init__(self, joints: int, descriptor: int | None = None):
        self.joints = joints
        size = 8 * 32 + 2 * CAPACITY * joints * 8
        if descriptor is None:
            descriptor = os.memfd_create("pi_vla_ros_trajectory")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        self.integers = np.frombuffer(self._memory, np.int64, 16)
        self.floats = np.frombuffer(self._memory, np.float64, 16, offset=128)
        self._data = np.frombuffer(self._memory, np.float64, offset=256).reshape(2, CAPACITY, joints)

    # --- writer --------------------------------------------------------------------------------------------------

    def write(self, trajectory: Trajectory, join: int) -> int:
        """Offer a trajectory that leaves the one before at tick `join`; returns its generation."""
        count, head = len(trajectory.positions), self.integers
        if count > CAPACITY:
            raise ValueError(f"a trajectory of {count} knots does not fit; at most {CAPACITY} (motion.plan_hz)")
        head[SEQUENCE] += 1  # odd: being written
        self._data[0, :count], self._data[1, :count] = trajectory.positions, trajectory.velocities
        self.floats[STEP] = trajectory.step
        head[FIRST], head[COUNT], head[JOIN] = trajectory.first, count, join
        head[GENERATION] += 1
        head[CHECKSUM] = self._checksum(count)
        head[SEQUENCE] += 1
        return int(head[GENERATION])

    # --- player --------------------------------------------------------------------------------------------------

    def read(self) -> tuple[int, Trajectory, int] | None:
        """(generation, trajectory, join), copied; None while it is being written."""
        head = self.integers
        before = int(head[SEQUENCE])
        if before % 2:
            return None
        generation, first, count, join = (int(head[i]) for i in (GENERATION, FIRST, COUNT, JOIN))
        checksum, step = int(head[CHECKSUM]), float(self.floats[STEP])
        if not 0 < count <= CAPACITY:
            return None
        positions, velocities = self._data[0, :count].copy(), self._data[1, :count].copy()
        if int(head[SEQUENCE]) != before or _checksum(positions, velocities) != checksum:
            return None
        return generation, Trajectory(first, step, positions, velocities), join

    def close(self) -> None:
        del self.integers, self.floats, self._data
        self._memory.close()
        os.close(self.descriptor)

    def _checksum(self, count: int) -> int:
        return _checksum(self._data[0, :count], self._data[1, :count])


def _checksum(positions: np.ndarray, velocities: np.ndarray) -> int:
    return zlib.crc32(velocities.data, zlib.crc32(positions.data))
