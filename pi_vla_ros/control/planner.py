# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Chunk + current motion -> the next trajectory: joined, limited, and ending at rest in time.

Every trajectory carries its own safe end: it follows the chunk only as long as it can still be at rest `timeout`
after the observation that it answers. Whoever plays it, and whatever dies, the arm stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pi_vla_ros.control.limiter import Limits, brake, braking_steps, follow
from pi_vla_ros.control.reference import Reference
from pi_vla_ros.control.stitch import fade, windows
from pi_vla_ros.control.trajectory import accelerations
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Trajectory

# Knots of the current motion that a new trajectory repeats before the join: a controller that receives it is already
# inside of it, and samples it without a bridge of its own.
HISTORY = 0.1  # s


class ChunkRejected(ValueError):
    """A chunk cannot be executed; `reason` is a short name for counting, the message is for a person."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Plan:
    """A trajectory, the tick at which it leaves the one before, the tick at which its tail begins, and its clips."""

    trajectory: Trajectory
    join: int
    tail: int
    clipped: np.ndarray  # (3, knots, joints) bool: position, velocity, acceleration


class Planner:
    """Makes plans for one robot. Times are s on the ROS clock."""

    def __init__(self, robot: RobotConfig):
        self.step = 1.0 / robot.motion.plan_hz
        self.limits = Limits.of(robot)
        self._motion, self._timeout = robot.motion, robot.timing.timeout
        self._velocity_joints = np.array([j.action.kind == "velocity" for j in robot.joints])
        self._braking = braking_steps(self.limits, self.step)

    def hold(self, position: np.ndarray, now: float) -> Plan:
        """Rest at `position` (joints,)."""
        tick = math.floor(now / self.step) - 1  # at rest already now
        rest = np.repeat(position[None], 2, axis=0)
        return self._plan(tick, tick, tick, rest, np.zeros_like(rest))

    def stop(self, current: Trajectory, now: float) -> Plan:
        """Brake as hard as allowed, as soon as the margin allows."""
        join = self._join(now)
        past_p, past_v = self._past(current, now, join)
        p, v = brake(past_p[-1], past_v[-1], self.limits, self.step)
        return self._plan(join - len(past_p) + 1, join, join, np.vstack([past_p, p]), np.vstack([past_v, v]))

    def follow(self, current: Trajectory, chunk: ActionChunk, now: float, window: float) -> Plan:
        """Leave `current` for `chunk`, the difference fading out within `window` s, or longer if limits ask. Raises ChunkRejected."""
        self._check(chunk)
        join = self._join(now)
        tail = math.floor((chunk.stamp + self._timeout) / self.step) - self._braking
        if tail <= join:
            raise ChunkRejected(
                "chunk_too_old",
                f"the chunk answers an observation {now - chunk.stamp:.2f} s old: nothing of it can be executed within "
                f"timing.timeout ({self._timeout} s)",
            )
        if chunk.stamp > now + chunk.dt:
            raise ChunkRejected("chunk_from_future", f"the chunk's stamp lies {chunk.stamp - now:.2f} s in the future")
        past_p, past_v = self._past(current, now, join)
        p, v = past_p[-1], past_v[-1]
        reference = Reference(chunk, self._velocity_joints)
        reference.anchor(join * self.step, p)
        times = np.arange(join, tail + 1) * self.step
        target, rate, turn = reference.at(times)
        dp, dv, da = p - target[0], v - rate[0], self._acceleration(current, join) - turn[0]
        correction, correction_rate = fade(dp, dv, da, times - times[0], windows(dp, dv, self.limits, window))
        limited = follow(p, v, (target + correction)[1:], (rate + correction_rate)[1:], self.limits, self.step)
        tail_p, tail_v = brake(limited.positions[-1], limited.velocities[-1], self.limits, self.step)
        clipped = np.zeros((3, len(past_p) + len(limited.positions) + len(tail_p), len(p)), dtype=bool)
        clipped[:, len(past_p) : len(past_p) + len(limited.positions)] = limited.clipped
        positions = np.vstack([past_p, limited.positions, tail_p])
        velocities = np.vstack([past_v, limited.velocities, tail_v])
        return self._plan(join - len(past_p) + 1, join, tail, positions, velocities, clipped)

    def _check(self, chunk: ActionChunk) -> None:
        joints = len(self._velocity_joints)
        if chunk.actions.ndim != 2 or chunk.actions.shape[1] != joints or not len(chunk.actions):
            raise ChunkRejected(
                "chunk_shape", f"the chunk is {chunk.actions.shape}; the robot has {joints} joints: (n, {joints})"
            )
        if not np.isfinite(chunk.actions).all() or not math.isfinite(chunk.stamp):
            raise ChunkRejected("chunk_not_finite", "the chunk has NaN or infinite entries")

    def _join(self, now: float) -> int:
        return math.ceil((now + self._motion.margin) / self.step)

    def _past(self, current: Trajectory, now: float, join: int) -> tuple[np.ndarray, np.ndarray]:
        """Knots of the current motion from a little before `now` up to and with tick `join`; it rests at its ends."""
        first = min(math.floor((now - HISTORY) / self.step), join - 1)
        at = np.arange(first, join + 1) - current.first
        rests = (at < 0) | (at >= len(current.positions))
        at = np.clip(at, 0, len(current.positions) - 1)
        return current.positions[at], np.where(rests[:, None], 0.0, current.velocities[at])

    def _acceleration(self, current: Trajectory, tick: int) -> np.ndarray:
        """Acceleration with which `current` arrives at `tick`."""
        at = tick - current.first - 1
        if not 0 <= at < len(current.positions) - 1:
            return np.zeros(current.positions.shape[1])
        return accelerations(current)[1][at]

    def _plan(self, first, join, tail, positions, velocities, clipped=None) -> Plan:
        if clipped is None:
            clipped = np.zeros((3, *positions.shape), dtype=bool)
        return Plan(Trajectory(first, self.step, positions, velocities), join, tail, clipped)
