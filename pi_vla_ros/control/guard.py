# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The final limiter: the last look at every command before it is emitted.

A planned trajectory keeps the limits by itself, and then nothing happens here. But it is played on the wall clock, and
a wall clock can be set (NTP, PTP, a person): half a second forward would be half a second of motion in one command.
Time between two commands is taken from a clock that nobody sets. Where the next command cannot be reached from the
last one under the limits, ruckig finds a way that meets the trajectory a little later, and that is emitted until then.
Without ruckig the trajectory is approached step by step under position, velocity and acceleration limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pi_vla_ros.control.limiter import Limits, follow
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.types import Trajectory

try:
    import ruckig
except ImportError:
    ruckig = None

SLACK = 1e-3  # share of a limit, for the two clocks' difference and rounding
NEAR = 1e-5  # rad or m: nothing moves by less
MEET = np.geomspace(0.05, 5.0, 16)  # s: when the trajectory may be met; the first that the limits allow
LOOKS = 40  # places at which a way is held against the range


@dataclass(frozen=True)
class State:
    """What was emitted: monotonic time, s; position, velocity, acceleration (joints,)."""

    time: float
    p: np.ndarray
    v: np.ndarray
    a: np.ndarray


@dataclass(frozen=True)
class Bridge:
    """A way of ruckig's that leaves at monotonic time `begin` and meets `trajectory` at `end`."""

    way: Any
    begin: float
    end: float
    trajectory: Trajectory


class Guard:
    """For one stream of commands. limits.jerk is finite: what the plans keep, `2 A / window` where a robot has none."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._last: State | None = None
        self._bridge: Bridge | None = None
        self.bridged = 0  # commands that were replaced

    def reset(self) -> None:
        """The next command is the first."""
        self._last = self._bridge = None

    def command(self, trajectory: Trajectory, now: float, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (joints,) to emit: the trajectory's at `now`, s on its clock, or what leads there.
        time: s, monotonic."""
        p, v = sample(trajectory, now)
        last, dt = self._last, 0.0
        if last is None:
            self._last = State(time, p, v, np.zeros_like(v))
            return p, v
        dt = max(time - last.time, 1e-6)
        if self._bridge and time >= self._bridge.end:
            self._bridge = None
        if self._bridge is None and self._reachable(p, v, dt):
            most = self._limits.acceleration
            self._last = State(time, p, v, np.clip((v - last.v) / dt, -most, most))
            return p, v
        self.bridged += 1
        if ruckig and (self._bridge is None or self._bridge.trajectory is not trajectory):
            self._bridge = self._meet(trajectory, now, time)
        if self._bridge:
            p, v, a = (np.array(x) for x in self._bridge.way.at_time(time - self._bridge.begin))
        else:
            step = follow(last.p, last.v, p[None], v[None], self._limits, dt)
            p, v = step.positions[0], step.velocities[0]
            a = (v - last.v) / dt
        self._last = State(time, p, v, a)
        return p, v

    def _reachable(self, p: np.ndarray, v: np.ndarray, dt: float) -> bool:
        """Is there a motion under the limits from what was emitted last to p, v after dt? What these bounds let
        through is less than NEAR from such a motion."""
        speed, hardest, last = self._limits.velocity, self._limits.acceleration, self._last
        slack = NEAR + SLACK * speed * dt
        bend = np.minimum(hardest * dt * dt / 4, self._limits.jerk * dt**3 / 12)  # of a path beside its mean speed's
        return bool(
            (np.abs(v) <= speed * (1 + SLACK)).all()
            and (np.abs(v - last.v) <= hardest * (dt * (1 + SLACK) + SLACK * SLACK)).all()
            and (np.abs(p - last.p - (v + last.v) * (dt / 2)) <= bend + slack).all()
        )

    def _meet(self, trajectory: Trajectory, now: float, time: float) -> Bridge | None:
        """The earliest meeting with the trajectory, at the latest where it rests. One that was arranged with the
        trajectory before this one stays, if it can: else each new trajectory would put it off."""
        last = self._last
        arranged = [self._bridge.end - time] if self._bridge else []
        for later in [*arranged, *MEET]:
            way = self._way(trajectory, now + later, time - last.time + later)
            if way is not None:
                return Bridge(way, last.time, time + later, trajectory)
        return None

    def _way(self, trajectory: Trajectory, at: float, duration: float):
        """ruckig's way from what was emitted last to the trajectory's state `at`, taking `duration`; None if none."""
        last, limits = self._last, self._limits
        p, v = sample(trajectory, at)
        half = trajectory.step / 4
        a = (sample(trajectory, at + half)[1] - sample(trajectory, at - half)[1]) / (2 * half)
        request = ruckig.InputParameter(len(p))
        request.current_position, request.current_velocity = last.p.tolist(), last.v.tolist()
        request.current_acceleration = last.a.tolist()
        request.target_position, request.target_velocity = p.tolist(), v.tolist()
        request.target_acceleration = np.clip(a, -limits.acceleration, limits.acceleration).tolist()
        request.max_velocity = np.maximum(limits.velocity, np.abs(v)).tolist()
        request.max_acceleration, request.max_jerk = limits.acceleration.tolist(), limits.jerk.tolist()
        request.minimum_duration = duration
        way = ruckig.Trajectory(len(p))
        if ruckig.Ruckig(len(p)).calculate(request, way) not in (ruckig.Result.Working, ruckig.Result.Finished):
            return None
        if way.duration > duration * (1 + 1e-6):
            return None
        path = np.array([way.at_time(t)[0] for t in np.linspace(0, way.duration, LOOKS)])
        low, high = np.minimum(limits.low, last.p), np.maximum(limits.high, last.p)
        return way if (path >= low - NEAR).all() and (path <= high + NEAR).all() else None
