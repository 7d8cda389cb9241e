# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The final limiter: the last look at every command before it is emitted.

A planned trajectory keeps the limits by itself, and then nothing happens here. But it is played on the wall clock, and
a wall clock can be set (NTP, PTP, a person): half a second forward would be half a second of motion in one command.
Time between two commands is taken from a clock that nobody sets. Where the next command cannot be reached from the
last one under the limits, or leads where none but illegal commands can follow, a way that keeps the limits is emitted
until it meets the trajectory again: a quintic, or ruckig's where that is earlier; else the arm stops, and goes on from
rest. So there is always a way, and each has a known end.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pi_vla_ros.control.bridge import Crossings, Stop, patience
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.trajectory import motion
from pi_vla_ros.types import Trajectory

try:
    import ruckig
except ImportError:
    ruckig = None

SLACK = 1e-3  # share of a limit, for the two clocks' difference and rounding
NEAR = 1e-5  # rad or m: nothing moves by less
FAR = 1e9  # what an unlimited joint's limits are taken for
MEET = np.geomspace(0.02, 5.0, 18)  # s: when the trajectory may be met; the first that the limits allow


class Way(Protocol):
    duration: float

    def at_time(self, time: float) -> np.ndarray:
        """Position, velocity, acceleration (3, joints) after `time` s."""


@dataclass(frozen=True)
class Bridge:
    """A way that leaves at monotonic time `begin`, and the trajectory for which it was found."""

    way: Way
    begin: float
    trajectory: Trajectory

    @property
    def end(self) -> float:
        return self.begin + self.way.duration


class Guard:
    """For one stream of commands. limits.jerk is what the plans keep, `2 A / window` where a robot has none."""

    def __init__(self, limits: Limits):
        self._limits = Limits(*(np.clip(getattr(limits, f.name), -FAR, FAR) for f in dataclasses.fields(Limits)))
        self._state: np.ndarray | None = None  # what was emitted last: position, velocity, acceleration (3, joints)
        self._time = 0.0  # and when, s, monotonic
        self._bridge: Bridge | None = None
        self.bridged = 0  # commands that were replaced

    def reset(self) -> None:
        """The next command is the first."""
        self._state = self._bridge = None

    def command(self, trajectory: Trajectory, now: float, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (joints,) to emit: the trajectory's at `now`, s on its clock, or what leads there.
        time: s, monotonic."""
        state = motion(trajectory, now)
        if self._state is None:
            self._begin(state[0])
        else:
            if self._bridge and time >= self._bridge.end:
                self._state, self._time = self._bridge.way.at_time(self._bridge.way.duration), self._bridge.end
                self._bridge = None
            if self._bridge or not self._legal(state, max(time - self._time, 1e-6)):
                self.bridged += 1
                if self._bridge is None or self._bridge.trajectory is not trajectory:
                    self._bridge = self._next(trajectory, now, time)
                state = self._bridge.way.at_time(time - self._bridge.begin)
        self._state, self._time = state, time
        return state[0], state[1]

    def _begin(self, p: np.ndarray) -> None:
        """Where the first command lies out of range, the range reaches as far: an arm may be found there."""
        given = self._limits
        low, high = np.minimum(given.low, p) - NEAR, np.maximum(given.high, p) + NEAR
        v, a, j = (x * (1 + SLACK) for x in (given.velocity, given.acceleration, given.jerk))
        self._wide = Limits(low, high, v, a, j)
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        # what `_legal` compares is at most a cubic in the time since the last command
        none = np.zeros_like(p)
        self._most = np.array(
            [  # constant, and per s, s², s³
                [none + NEAR, SLACK * v, none, j / 12],  # of a path beside its mean speed's, by jerk
                [none + NEAR, SLACK * v, a / 4, none],  # and by acceleration
                [SLACK * SLACK * a, a, none, none],  # of speed
                [SLACK * a, j, none, none],  # of acceleration
                [v, none, none, none],
                [a, none, none, none],
            ]
        ).transpose(1, 0, 2)
        self._fade, self._slow, self._ramp = 1 / j, 1 / (2 * a), a / j

    def _legal(self, state: np.ndarray, dt: float) -> bool:
        """Is there a motion under the limits from what was emitted last to `state` after dt, and from there to rest?
        What these bounds let through is less than NEAR, and a cubic's bend in a tick, from such a motion."""
        change = state - self._state
        beside = change[:2] - (state[1:] + self._state[1:]) * (dt / 2)
        most = self._most
        found = np.concatenate((beside[:1], beside[:1], change[1:], state[1:]))
        if (np.abs(found) > most[0] + dt * (most[1] + dt * (most[2] + dt * most[3]))).any():
            return False
        # a speed beside its mean acceleration's: the jerk that the change of acceleration leaves makes it
        left = self._wide.jerk * (dt * dt) - change[2] * change[2] * self._fade
        if (np.abs(beside[1]) > np.maximum(left, 0.0) / 4 + SLACK * SLACK * self._wide.acceleration).any():
            return False
        # the way to rest, rounded up: first no acceleration, then all of it
        speed, bend = np.abs(state[1:])
        fade = bend * self._fade
        top = speed + bend * fade / 2
        reach = top * (fade + top * self._slow + self._ramp)
        if ((top <= self._wide.velocity) & (np.abs(state[0] - self._middle) + reach <= self._half)).all():
            return True
        return self._safe(state)

    def _safe(self, state: np.ndarray) -> bool:
        """Can an arm in `state` come to rest without passing its range and speed?"""
        (low, high, speed), wide = Stop(state, self._limits).extremes(), self._wide
        return bool(((low >= wide.low) & (high <= wide.high) & (speed <= wide.velocity)).all())

    def _next(self, trajectory: Trajectory, now: float, time: float) -> Bridge:
        """The earliest meeting with the trajectory, or a stop, from which there is one. What was arranged with the
        trajectory before this one stays if this one comes by there, and is tried if not: else each new trajectory would
        put the meeting off."""
        state, wide, current = self._state, self._wide, self._bridge
        if current:
            met = current.way.at_time(current.way.duration)
            apart = np.abs(met - motion(trajectory, now + current.end - time))
            if (apart <= self._most[0, 1:4] / 2).all():  # both trajectories pass there
                return dataclasses.replace(current, trajectory=trajectory)
        rest = Stop(state, self._limits)
        goal = np.clip(motion(trajectory, math.inf)[0], wide.low + NEAR, wide.high - NEAR)
        by_stop = rest.duration + patience(goal - rest.end, self._limits)
        latest = max(trajectory.end - now, by_stop - (time - self._time), MEET[0])
        arranged = [current.end - time] if current else []
        times = np.array([*sorted([*arranged, *MEET[latest > MEET]]), latest])
        ends = np.array([motion(trajectory, now + later) for later in times])
        ends[-1] = goal, 0 * goal, 0 * goal
        way = self._cross(ends, times + (time - self._time))
        if way is None and current:
            after = Stop(met, self._limits)
            by_current = current.end - self._time + after.duration + patience(goal - after.end, self._limits)
            if by_current <= by_stop or not self._safe(state):
                return dataclasses.replace(current, trajectory=trajectory)
        return Bridge(way or rest.way, self._time, trajectory)

    def _cross(self, ends: np.ndarray, durations: np.ndarray) -> Way | None:
        """A way to the first of `ends` (ways, 3, joints) that can be reached in its time, and left."""
        state, wide = self._state, self._wide
        crossings = Crossings(state, ends, durations)
        limits = dataclasses.replace(
            wide,
            velocity=np.maximum(wide.velocity, np.abs(state[1])),
            acceleration=np.maximum(wide.acceleration, np.abs(state[2])),
        )
        fits = crossings.within(limits)
        for k, end in enumerate(ends):
            way = crossings.way(k) if fits[k] else _by_ruckig(state, end, durations[k], limits)
            if way is not None and self._safe(end):
                return way
        return None


@dataclass(frozen=True)
class _Profile:
    """ruckig's way."""

    profile: ruckig.Trajectory

    @property
    def duration(self) -> float:
        return self.profile.duration

    def at_time(self, time: float) -> np.ndarray:
        return np.array(self.profile.at_time(min(max(time, 0.0), self.duration)))


def _by_ruckig(begin: np.ndarray, end: np.ndarray, duration: float, limits: Limits) -> Way | None:
    """From one state (3, joints) to another in `duration` s, or None: then ruckig knows of no way, or is not there."""
    if ruckig is None:
        return None
    joints = begin.shape[1]
    request, profile = ruckig.InputParameter(joints), ruckig.Trajectory(joints)
    request.current_position, request.current_velocity, request.current_acceleration = begin.tolist()
    request.target_position, request.target_velocity, request.target_acceleration = end.tolist()
    request.max_velocity, request.max_acceleration = limits.velocity.tolist(), limits.acceleration.tolist()
    request.max_jerk, request.minimum_duration = limits.jerk.tolist(), float(duration)
    try:
        found = ruckig.Ruckig(joints).calculate(request, profile)
    except (ruckig.RuckigError, ValueError):  # it refuses what is asked for, or its result has no name
        return None
    if found not in (ruckig.Result.Working, ruckig.Result.Finished) or profile.duration > duration * (1 + 1e-6):
        return None
    inside = all(
        low <= reach.min and reach.max <= high
        for low, reach, high in zip(limits.low, profile.position_extrema, limits.high, strict=True)
    )
    return _Profile(profile) if inside else None
