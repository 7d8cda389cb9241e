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

from pi_vla_ros.control.ensemble import Opinion, mean
from pi_vla_ros.control.halt import halt
from pi_vla_ros.control.limiter import Limits, brake, braking_steps, follow
from pi_vla_ros.control.reference import Reference
from pi_vla_ros.control.smoothing import smooth
from pi_vla_ros.control.stitch import hand_over, windows
from pi_vla_ros.control.trajectory import accelerations, jerks, peaks
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Trajectory

# Knots of the current motion that a new trajectory repeats before the join: a controller that receives it is already
# inside of it, and samples it without a bridge of its own.
HISTORY = 0.1  # s
FORESIGHT = 10.0  # s of a chunk that are looked at
LEEWAY = 1e-6  # relative, and rad or m: rounding


class ChunkRejected(ValueError):
    """A chunk cannot be executed; `reason` is a short name for counting, the message is for a person."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Plan:
    """What to execute next.

    trajectory: limited and smooth, ending at rest: what the arm is commanded.
    join:       tick at which `trajectory` leaves the one before.
    tail:       tick from which it gives up the chunk and brakes.
    raw:        the motion under position, velocity and acceleration limits, of which `trajectory` is the running mean;
                the next chunk goes on from it. None for an emergency brake, which nothing takes over from.
    wanted:     what the policy wants, joined but not limited; the next chunk takes over from it.
    opinions:   what the last chunks said (temporal_ensemble), oldest first.
    cut:        (4, steps, joints): by how much the position, velocity, acceleration and jerk limits cut, from the join
                on; rad or m, per s, per s², per s³.
    """

    trajectory: Trajectory
    join: int
    tail: int
    raw: Trajectory | None
    wanted: Trajectory | None
    opinions: tuple[Opinion, ...] = ()
    cut: np.ndarray | None = None


class Planner:
    """Makes plans for one robot. Times are s on the ROS clock."""

    def __init__(self, robot: RobotConfig):
        self.step = 1.0 / robot.motion.plan_hz
        self.limits = Limits.of(robot)
        self.window = self.limits.window(self.step)  # steps of the running mean
        self._motion, self._timeout = robot.motion, robot.timing.timeout
        self._joints = robot.joints
        # commands run ahead of the policy's time by the controller's lag, and by what the mean is late
        self._lead = robot.motion.lead + self.window * self.step / 2
        self._stopping = braking_steps(self.limits, self.step) + self.window

    def hold(self, position: np.ndarray, now: float) -> Plan:
        """Rest at `position` (joints,)."""
        tick = math.floor(now / self.step) - 1  # at rest already now
        rest = np.repeat(position[None], 2, axis=0)
        still = Trajectory(tick, self.step, rest, np.zeros_like(rest))
        return Plan(still, tick, tick, still, still)

    def stop(self, current: Plan, now: float) -> Plan:
        """Brake as hard as allowed, as soon as the margin allows."""
        join = self._join(now)
        past_p, past_v = self._past(current.trajectory, now, join)
        first = join - len(past_p) + 1
        p, v = self._halt(current, join, past_p[-1], past_v[-1])
        return Plan(
            Trajectory(first, self.step, np.vstack([past_p, p]), np.vstack([past_v, v])), join, join, None, None
        )

    def follow(self, current: Plan, chunk: ActionChunk, now: float, window: float) -> Plan:
        """Hand over from `current` to `chunk` within `window` s, or longer if limits ask. Raises ChunkRejected."""
        self._check(chunk, now)
        join = self._join(now)
        tail = math.floor((chunk.stamp + self._timeout) / self.step) - self._stopping
        if tail <= join:
            raise ChunkRejected(
                "chunk_too_old",
                f"the chunk answers an observation {now - chunk.stamp:.2f} s old: nothing of it can be executed within "
                f"timing.timeout ({self._timeout} s)",
            )
        before_p, before_v = _at(current.raw, join - self.window, self.window + 1)
        reference = Reference(chunk, self._joints, self._lead)
        reference.anchor(join * self.step, before_p[-1])
        end = min(math.ceil(reference.end / self.step), join + math.ceil(FORESIGHT / self.step))
        times = np.arange(join, max(tail, end) + 1) * self.step
        old, new = _at(current.wanted, join, len(times)), reference.at(times)
        opinions = ()
        if self._motion.stitcher == "temporal_ensemble":
            said = (*current.opinions, Opinion(join, math.ceil(reference.end / self.step), *new))
            opinions, *new = mean(said, join, len(times), self.step, self._motion.ensemble_decay)
        at_once = self._motion.stitcher == "hold_and_replace"
        reach = (
            np.full(len(self._joints), self.step) if at_once else windows(new[0][0] - old[0][0], self.limits, window)
        )
        target, rate = hand_over(old, new, times - times[0], reach)
        steps = slice(1, tail - join + 1)
        limited = follow(before_p[-1], before_v[-1], target[steps], rate[steps], self.limits, self.step)
        end_p, end_v = brake(limited.positions[-1], limited.velocities[-1], self.limits, self.step)
        raw = Trajectory(
            join - self.window,
            self.step,
            np.vstack([before_p, limited.positions, end_p]),
            np.vstack([before_v, limited.velocities, end_v]),
        )
        past_p, past_v = self._past(current.trajectory, now, join)
        p, v = smooth(raw, join + 1, self.window)
        trajectory = Trajectory(join - len(past_p) + 1, self.step, np.vstack([past_p, p]), np.vstack([past_v, v]))
        hard = np.abs(np.diff(raw.velocities, n=2, axis=0))[self.window - 1 :][: len(limited.cut[0])] / self.step**2
        cut = np.concatenate([limited.cut, np.maximum(hard - self.limits.jerk * (1 + 1e-9), 0.0)[None]])
        return Plan(trajectory, join, tail, raw, Trajectory(join, self.step, target, rate), opinions, cut)

    def _halt(self, current: Plan, join: int, p: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States after `join` until rest: the quickest, or the running mean of braking."""
        a = accelerations(Trajectory(0, self.step, *_at(current.trajectory, join, 2)))[0][0]
        limits = self.limits.kept(self.step)
        quickest = halt(p, v, a, limits, self.step)
        if quickest and self._legal(p, v, *quickest, limits):
            return quickest
        if current.raw is None:  # brakes already
            count = max(1, current.trajectory.last - join)
            return _at(current.trajectory, join + 1, count)
        before_p, before_v = _at(current.raw, join - self.window, self.window + 1)
        end_p, end_v = brake(before_p[-1], before_v[-1], self.limits, self.step)
        raw = Trajectory(join - self.window, self.step, np.vstack([before_p, end_p]), np.vstack([before_v, end_v]))
        return smooth(raw, join + 1, self.window)

    def _legal(self, p, v, positions, velocities, limits: Limits) -> bool:
        """Does a way to rest from p, v keep the limits? Where p is out of range, or the start is at a limit to the last
        digit, it must not get worse."""
        curve = Trajectory(0, self.step, np.vstack([p, positions]), np.vstack([v, velocities]))
        low, high, speed, acceleration = peaks(curve)
        return bool(
            (low >= np.minimum(limits.low, p) - LEEWAY).all()
            and (high <= np.maximum(limits.high, p) + LEEWAY).all()
            and (speed <= np.maximum(limits.velocity, np.abs(v)) * (1 + LEEWAY)).all()
            and (acceleration <= limits.acceleration * (1 + LEEWAY)).all()
            and (jerks(curve) <= limits.jerk * (1 + LEEWAY)).all()
        )

    def _check(self, chunk: ActionChunk, now: float) -> None:
        joints = len(self._joints)
        if chunk.actions.ndim != 2 or chunk.actions.shape[1] != joints or not len(chunk.actions):
            raise ChunkRejected(
                "chunk_shape", f"the chunk is {chunk.actions.shape}; the robot has {joints} joints: (n, {joints})"
            )
        if not np.isfinite(chunk.actions).all() or not math.isfinite(chunk.stamp):
            raise ChunkRejected("chunk_not_finite", "the chunk has NaN or infinite entries")
        if not 0 < chunk.dt < math.inf:
            raise ChunkRejected("chunk_shape", f"the time between two actions is {chunk.dt} s; it must be positive")
        if chunk.stamp > now + chunk.dt:
            raise ChunkRejected("chunk_from_future", f"the chunk's stamp lies {chunk.stamp - now:.2f} s in the future")
        length = len(chunk.actions) * chunk.dt
        if now > chunk.stamp + length:
            raise ChunkRejected(
                "chunk_too_old",
                f"the chunk covers {length:.2f} s and answers an observation {now - chunk.stamp:.2f} s old: it is over",
            )

    def _join(self, now: float) -> int:
        return math.ceil((now + self._motion.margin) / self.step)

    def _past(self, current: Trajectory, now: float, join: int) -> tuple[np.ndarray, np.ndarray]:
        """Knots of the current motion from a little before `now` up to and with tick `join`."""
        first = min(math.floor((now - HISTORY) / self.step), join - 1)
        return _at(current, first, join - first + 1)


def _at(trajectory: Trajectory, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities at `count` ticks from `first` on, (count, joints); at rest outside of its knots."""
    at = np.arange(first, first + count) - trajectory.first
    rests = (at < 0) | (at >= len(trajectory.positions))
    at = np.clip(at, 0, len(trajectory.positions) - 1)
    return trajectory.positions[at], np.where(rests[:, None], 0.0, trajectory.velocities[at])
