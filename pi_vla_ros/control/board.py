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
NEVER = -(2**62)  # tick: a join that is always over

# The integer header, by the writer; then by the player: last generation taken / refused, commands sent / replaced.
SEQUENCE, GENERATION, FIRST, COUNT, JOIN, CHECKSUM, PLAYING, CLOSING = range(8)
TAKEN, REFUSED, SENT, BRIDGED = range(8, 12)
# The float header, by the writer; then by the player: its clock, intervals of commands (p50, p99, p99.9, longest; ms).
STEP = 0
BEAT, INTERVALS = 1, slice(2, 6)


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
        self._integers = np.frombuffer(self._memory, np.int64, 16)
        self._floats = np.frombuffer(self._memory, np.float64, 16, offset=128)
        self._data = np.frombuffer(self._memory, np.float64, offset=256).reshape(2, CAPACITY, joints)

    # --- writer --------------------------------------------------------------------------------------------------

    def write(self, trajectory: Trajectory, join: int) -> int:
        """Offer a trajectory that leaves the one before at tick `join`; returns its generation."""
        count, head = len(trajectory.positions), self._integers
        if count > CAPACITY:
            raise ValueError(f"a trajectory of {count} knots does not fit; at most {CAPACITY} (motion.plan_hz)")
        head[SEQUENCE] += 1  # odd: being written
        self._data[0, :count], self._data[1, :count] = trajectory.positions, trajectory.velocities
        self._floats[STEP] = trajectory.step
        head[FIRST], head[COUNT], head[JOIN] = trajectory.first, count, join
        head[GENERATION] += 1
        head[CHECKSUM] = self._checksum(count)
        head[SEQUENCE] += 1
        return int(head[GENERATION])

    def withdraw(self) -> None:
        """Take the last offer back: a player that comes too late to answer refuses it, too."""
        self._integers[SEQUENCE] += 1
        self._integers[JOIN] = NEVER
        self._integers[SEQUENCE] += 1

    def play(self, playing: bool) -> None:
        """Let the player publish, or be silent."""
        self._integers[PLAYING] = playing

    def ask_to_close(self) -> None:
        self._integers[CLOSING] = 1

    @property
    def taken(self) -> int:
        """The last generation that the player took; `refused` likewise."""
        return int(self._integers[TAKEN])

    @property
    def refused(self) -> int:
        return int(self._integers[REFUSED])

    @property
    def sent(self) -> int:
        """Commands that the player published."""
        return int(self._integers[SENT])

    @property
    def bridged(self) -> int:
        """Commands that the player's final limiter replaced."""
        return int(self._integers[BRIDGED])

    @property
    def beat(self) -> float:
        """The player's monotonic clock at its last tick, s; 0 before the first."""
        return float(self._floats[BEAT])

    @property
    def intervals_ms(self) -> tuple[float, float, float, float]:
        """p50, p99, p99.9 and longest interval between commands."""
        return tuple(self._floats[INTERVALS].tolist())

    # --- player --------------------------------------------------------------------------------------------------

    def read(self) -> tuple[int, Trajectory, int] | None:
        """(generation, trajectory, join), copied; None while it is being written."""
        head = self._integers
        before = int(head[SEQUENCE])
        if before % 2:
            return None
        generation, first, count, join = (int(head[i]) for i in (GENERATION, FIRST, COUNT, JOIN))
        checksum, step = int(head[CHECKSUM]), float(self._floats[STEP])
        if not 0 < count <= CAPACITY:
            return None
        positions, velocities = self._data[0, :count].copy(), self._data[1, :count].copy()
        if int(head[SEQUENCE]) != before or _checksum(positions, velocities) != checksum:
            return None
        return generation, Trajectory(first, step, positions, velocities), join

    @property
    def generation(self) -> int:
        return int(self._integers[GENERATION])

    @property
    def playing(self) -> bool:
        return bool(self._integers[PLAYING])

    @property
    def closing(self) -> bool:
        return bool(self._integers[CLOSING])

    def take(self, generation: int) -> None:
        self._integers[TAKEN] = generation

    def refuse(self, generation: int) -> None:
        self._integers[REFUSED] = generation

    def tick(self, clock: float, published: bool, bridged: int) -> None:
        """Note a tick of the player at its monotonic `clock`, s."""
        self._floats[BEAT] = clock
        self._integers[SENT] += published
        self._integers[BRIDGED] = bridged

    def report(self, intervals_ms: tuple[float, float, float, float]) -> None:
        self._floats[INTERVALS] = intervals_ms

    def close(self) -> None:
        del self._integers, self._floats, self._data
        self._memory.close()
        os.close(self.descriptor)

    def _checksum(self, count: int) -> int:
        return _checksum(self._data[0, :count], self._data[1, :count])


def _checksum(positions: np.ndarray, velocities: np.ndarray) -> int:
    return zlib.crc32(velocities.data, zlib.crc32(positions.data))
