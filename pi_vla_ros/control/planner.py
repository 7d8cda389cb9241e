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
from pi_vla_ros.control.stitch import hand_over, windows
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
    """What to execute next.

    trajectory: limited, ending at rest.
    wanted:     what the policy wants, joined but not limited; the next chunk takes over from it.
    join:       tick at which `trajectory` leaves the one before.
    tail:       tick from which it brakes.
    clipped:    (3, knots, joints) bool: where position, velocity, acceleration limits cut.
    """

    trajectory: Trajectory
    wanted: Trajectory
    join: int
    tail: int
    clipped: np.ndarray


class Planner:
    """Makes plans for one robot. Times are s on the ROS clock."""

    def __init__(self, robot: RobotConfig):
        self.step = 1.0 / robot.motion.plan_hz
        self.limits = Limits.of(robot)
        self._motion, self._timeout = robot.motion, robot.timing.timeout
        self._joints = robot.joints
        self._braking = braking_steps(self.limits, self.step)

    def hold(self, position: np.ndarray, now: float) -> Plan:
        """Rest at `position` (joints,)."""
        tick = math.floor(now / self.step) - 1  # at rest already now
        rest = np.repeat(position[None], 2, axis=0)
        return self._plan(tick, tick, tick, rest, np.zeros_like(rest))

    def stop(self, current: Plan, now: float) -> Plan:
        """Brake as hard as allowed, as soon as the margin allows."""
        join = self._join(now)
        past_p, past_v = self._past(current.trajectory, now, join)
        p, v = brake(past_p[-1], past_v[-1], self.limits, self.step)
        return self._plan(join - len(past_p) + 1, join, join, np.vstack([past_p, p]), np.vstack([past_v, v]))

    def follow(self, current: Plan, chunk: ActionChunk, now: float, window: float) -> Plan:
        """Hand over from `current` to `chunk` within `window` s, or longer if limits ask. Raises ChunkRejected."""
        self._check(chunk, now)
        join = self._join(now)
        tail = math.floor((chunk.stamp + self._timeout) / self.step) - self._braking
        if tail <= join:
            raise ChunkRejected(
                "chunk_too_old",
                f"the chunk answers an observation {now - chunk.stamp:.2f} s old: nothing of it can be executed within "
                f"timing.timeout ({self._timeout} s)",
            )
        past_p, past_v = self._past(current.trajectory, now, join)
        reference = Reference(chunk, self._joints, self._motion.lead)
        reference.anchor(join * self.step, past_p[-1])
        times = np.arange(join, max(tail, math.ceil(reference.end / self.step)) + 1) * self.step
        old, new = _at(current.wanted, join, len(times)), reference.at(times)
        at_once = self._motion.stitcher == "hold_and_replace"
        reach = (
            np.full(len(self._joints), self.step) if at_once else windows(new[0][0] - old[0][0], self.limits, window)
        )
        target, rate = hand_over(old, new, times - times[0], reach)
        follow_steps = slice(1, tail - join + 1)
        limited = follow(past_p[-1], past_v[-1], target[follow_steps], rate[follow_steps], self.limits, self.step)
        tail_p, tail_v = brake(limited.positions[-1], limited.velocities[-1], self.limits, self.step)
        positions = np.vstack([past_p, limited.positions, tail_p])
        velocities = np.vstack([past_v, limited.velocities, tail_v])
        clipped = np.zeros((3, *positions.shape), dtype=bool)
        clipped[:, len(past_p) : len(past_p) + len(limited.positions)] = limited.clipped
        wanted = Trajectory(join, self.step, target, rate)
        return self._plan(join - len(past_p) + 1, join, tail, positions, velocities, wanted, clipped)

    def _check(self, chunk: ActionChunk, now: float) -> None:
        joints = len(self._joints)
        if chunk.actions.ndim != 2 or chunk.actions.shape[1] != joints or not len(chunk.actions):
            raise ChunkRejected(
                "chunk_shape", f"the chunk is {chunk.actions.shape}; the robot has {joints} joints: (n, {joints})"
            )
        if not np.isfinite(chunk.actions).all() or not math.isfinite(chunk.stamp):
            raise ChunkRejected("chunk_not_finite", "the chunk has NaN or infinite entries")
        if chunk.stamp > now + chunk.dt:
            raise ChunkRejected("chunk_from_future", f"the chunk's stamp lies {chunk.stamp - now:.2f} s in the future")

    def _join(self, now: float) -> int:
        return math.ceil((now + self._motion.margin) / self.step)

    def _past(self, current: Trajectory, now: float, join: int) -> tuple[np.ndarray, np.ndarray]:
        """Knots of the current motion from a little before `now` up to and with tick `join`."""
        first = min(math.floor((now - HISTORY) / self.step), join - 1)
        return _at(current, first, join - first + 1)

    def _plan(self, first, join, tail, positions, velocities, wanted=None, clipped=None) -> Plan:
        trajectory = Trajectory(first, self.step, positions, velocities)
        if clipped is None:
            clipped = np.zeros((3, *positions.shape), dtype=bool)
        return Plan(trajectory, wanted or trajectory, join, tail, clipped)


def _at(trajectory: Trajectory, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities at `count` ticks from `first` on, (count, joints); at rest outside of its knots."""
    at = np.arange(first, first + count) - trajectory.first
    rests = (at < 0) | (at >= len(trajectory.positions))
    at = np.clip(at, 0, len(trajectory.positions) - 1)
    return trajectory.positions[at], np.where(rests[:, None], 0.0, trajectory.velocities[at])
