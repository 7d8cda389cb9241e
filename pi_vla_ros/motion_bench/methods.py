# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ways of executing chunks: ours, as the policy node runs them, and what others do."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Protocol

import numpy as np

from pi_vla_ros.control.motion import MotionController
from pi_vla_ros.control.planner import Plan
from pi_vla_ros.control.trajectory import jerks, peaks
from pi_vla_ros.motion_bench.rtc import agree
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Trajectory

OURS = ("hold_and_replace", "blend", "temporal_ensemble", "rtc", "rtc_trained")
METHODS = ("step", "linear", *OURS)
TICK = 1 / 30  # s between the commands of step and linear
DELAYS = 30  # of the last chunks; of these the policy's side of rtc expects a percentile
KINDS = ("position", "velocity", "acceleration", "jerk")
LEEWAY = 1e-4  # of a limit: rounding


class Method(Protocol):
    def take(self, chunk: ActionChunk, now: float) -> None:
        """A chunk arrives; `now` never goes back."""

    def at(self, times: np.ndarray) -> np.ndarray:
        """Commands (K, joints) at `times` (K,), all at or after the last chunk's arrival, growing from call to call."""

    def report(self) -> dict:
        """What only the method itself knows."""


def make(name: str, robot: RobotConfig, lead: float) -> Method:
    """lead: s by which commands run ahead of the policy's time."""
    if name == "step":
        return Step(lead)
    if name == "linear":
        return Linear(lead)
    return Stitched(dataclasses.replace(robot, motion=dataclasses.replace(robot.motion, stitcher=name, lead=lead)))


class Step:
    """At each tick the newest chunk's action for that time, as a single point without a time: what most bridges do."""

    def __init__(self, lead: float):
        self._lead, self._chunk, self._sent = lead, None, None
        self._joined, self._joins, self._most = True, 0, 0.0

    def take(self, chunk: ActionChunk, now: float) -> None:
        self._chunk, self._joined = chunk, self._sent is None
        if self._sent is None:
            self._sent = _action(chunk, now + self._lead)
            self._tick = math.floor(now / TICK)

    def at(self, times: np.ndarray) -> np.ndarray:
        rows = np.empty((len(times), len(self._sent)))
        for k, t in enumerate(times):
            tick = math.floor(t / TICK + 1e-9)
            if tick != self._tick:
                self._tick, before = tick, self._sent
                self._sent = _action(self._chunk, tick * TICK + self._lead)
                if not self._joined:
                    self._joined, self._joins = True, self._joins + 1
                    self._most = max(self._most, float(np.abs(self._sent - before).max()))
            rows[k] = self._sent
        return rows

    def report(self) -> dict:
        """A step of the position has no velocity that it could be a step of."""
        return {"joins": _steps(self._joins, self._most, None, None)}


class Linear:
    """At each tick a line from where the command is to where the newest chunk wants it at the next tick: what a
    trajectory controller makes of points without velocities."""

    def __init__(self, lead: float):
        self._lead, self._chunk, self._from, self._rate = lead, None, None, 0.0
        self._joined, self._joins, self._most = True, 0, 0.0

    def take(self, chunk: ActionChunk, now: float) -> None:
        self._chunk, self._joined = chunk, self._from is None
        if self._from is None:
            self._from, self._tick = _between(chunk, now + self._lead), math.floor(now / TICK)
            self._rate = np.zeros_like(self._from)

    def at(self, times: np.ndarray) -> np.ndarray:
        rows = np.empty((len(times), len(self._from)))
        for k, t in enumerate(times):
            tick = math.floor(t / TICK + 1e-9)
            if tick != self._tick:
                self._from, self._tick, before = self._from + self._rate * TICK, tick, self._rate
                self._rate = (_between(self._chunk, (tick + 1) * TICK + self._lead) - self._from) / TICK
                if not self._joined:
                    self._joined, self._joins = True, self._joins + 1
                    self._most = max(self._most, float(np.abs(self._rate - before).max()))
            rows[k] = self._from + self._rate * (t - tick * TICK)
        return rows

    def report(self) -> dict:
        return {"joins": _steps(self._joins, 0.0, self._most, None)}


class Stitched:
    """Ours: the very motion controller of the policy node. For rtc the chunks are first made to agree with the one
    before, as the policy would."""

    def __init__(self, robot: RobotConfig):
        self._motion, self._robot = MotionController(robot, self._check), robot
        self._limits = self._motion.planner.limits
        self._beyond = np.zeros(len(KINDS), dtype=int)
        self._executed: ActionChunk | None = None
        self._delays: deque[float] = deque(maxlen=DELAYS)

    def take(self, chunk: ActionChunk, now: float) -> None:
        motion = self._robot.motion
        if self._motion.trajectory is None:
            self._motion.start(_between(chunk, now), now)
        elif motion.stitcher.startswith("rtc") and self._executed is not None:
            delay = float(np.percentile(self._delays, motion.rtc_delay_percentile))
            chunk = agree(chunk, self._executed, delay, motion)
        if self._motion.chunk(chunk, lambda: now) is None:
            self._executed = chunk
            self._delays.append(now + motion.margin - chunk.stamp)

    def at(self, times: np.ndarray) -> np.ndarray:
        return along(self._motion.trajectory, times)

    def report(self) -> dict:
        counters = self._motion.counters
        joins = counters.joins
        return {
            "joins": _steps(joins.count, joins.position_step, joins.velocity_step, joins.acceleration_step),
            "plans_beyond_limits": dict(zip(KINDS, self._beyond.tolist(), strict=True)),
            "clipped": {
                kind: {"count": int(count), "most": float(most)}
                for kind, count, most in zip(KINDS, counters.clipped, counters.clip_most, strict=True)
            },
            "rejected": dict(counters.rejected),
        }

    def _check(self, plan: Plan) -> bool:
        """Count the joints whose curve passes a limit anywhere, in what is executed or in what would be."""
        low, high, speed, acceleration = peaks(plan.trajectory)
        limits, more = self._limits, 1 + LEEWAY
        self._beyond += [
            int(((low < limits.low - LEEWAY) | (high > limits.high + LEEWAY)).sum()),
            int((speed > limits.velocity * more).sum()),
            int((acceleration > limits.acceleration * more).sum()),
            int((jerks(plan.trajectory) > limits.jerk * more).sum()),
        ]
        return True


def along(trajectory: Trajectory, times: np.ndarray) -> np.ndarray:
    """Positions (K, joints) at `times` (K,): what `control.trajectory.sample` says, for many times at once."""
    at = np.clip(times / trajectory.step - trajectory.first, 0, len(trajectory.positions) - 1)
    k = np.minimum(at.astype(int), len(trajectory.positions) - 2)
    s, h = (at - k)[:, None], trajectory.step
    p0, p1 = trajectory.positions[k], trajectory.positions[k + 1]
    v0, v1 = trajectory.velocities[k] * h, trajectory.velocities[k + 1] * h
    d = p1 - p0
    return p0 + s * (v0 + s * (3 * d - 2 * v0 - v1 + s * (v0 + v1 - 2 * d)))


def _place(chunk: ActionChunk, time: float) -> float:
    return min(max((time - chunk.stamp) / chunk.dt, 0.0), len(chunk.actions) - 1.0)


def _action(chunk: ActionChunk, time: float) -> np.ndarray:
    return chunk.actions[round(_place(chunk, time))]


def _between(chunk: ActionChunk, time: float) -> np.ndarray:
    place = _place(chunk, time)
    low = min(int(place), max(0, len(chunk.actions) - 2))
    high = min(low + 1, len(chunk.actions) - 1)
    return chunk.actions[low] + (place - low) * (chunk.actions[high] - chunk.actions[low])


def _steps(count: int, position: float, velocity: float | None, acceleration: float | None) -> dict:
    """None: without bound, because what it is the derivative of steps."""
    return {"count": count, "position_step": position, "velocity_step": velocity, "acceleration_step": acceleration}
