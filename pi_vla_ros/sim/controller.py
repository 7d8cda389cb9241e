# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The controllers that a robot would run, without ROS: what they accept and what they make of it.

They follow ros2_controllers (Jazzy): no check for NaN, no time-out, because the real ones have
none. Times are s on the ROS clock; vectors are (joints,) rad or m in the order of the controller's
joints.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pi_vla_ros.sim.spline import Point, between

AT_REST = np.finfo(np.float32).eps  # the controller's threshold for a last velocity of zero


@dataclass(frozen=True)
class Command:
    """A trajectory as it arrives: joints by name in any order, vectors in that order.

    stamp: s, ROS clock; 0 means now. Point times count from it.
    """

    stamp: float
    joint_names: Sequence[str]
    points: Sequence[Point]


class Rejected(ValueError):
    """Why a command is not followed. `reason` is the short name that is counted."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass
class Tally:
    """How many commands came, and why some were refused."""

    accepted: int = 0
    rejected: Counter = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)  # reason -> the last message in full
    latest: str = ""  # the last refusal

    def refuse(self, error: Rejected) -> None:
        self.rejected[error.reason] += 1
        self.messages[error.reason] = str(error)
        self.latest = f"{error.reason}: {error}"

    def report(self) -> dict:
        return {
            "accepted": self.accepted,
            "rejected": dict(self.rejected),
            "messages": dict(self.messages),
        }


class JointTrajectoryController:
    """joint_trajectory_controller with its default parameters.

    A new trajectory takes over whole, at the next sample. Before its first point the arm is led
    there from the measured state (from the desired one if `interpolate_from_desired_state`).
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        hold: np.ndarray,
        interpolate_from_desired_state: bool = False,
    ):
        """hold: (joints,) where to stay until the first trajectory."""
        self.joint_names = list(joint_names)
        self.tally = Tally()
        self._from_desired = interpolate_from_desired_state
        self._desired = (np.array(hold, dtype=np.float64), np.zeros(len(self.joint_names)))
        self._next: Command | None = None  # accepted, joints in our order, not sampled yet
        self._active: _Active | None = None

    def accept(self, command: Command, now: float) -> bool:
        """Follow `command` from the next sample on. False: refused, and the one before goes on."""
        try:
            check(command, self.joint_names, now)
        except Rejected as error:
            self.tally.refuse(error)
            return False
        self._next = _sorted(command, self.joint_names)
        self.tally.accepted += 1
        return True

    def sample(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """(joints,) set points at `now`; positions and velocities as measured at `now`."""
        if self._next is not None:
            before = self._desired if self._from_desired else (positions, velocities)
            self._active, self._next = _Active.begin(self._next, now, *before), None
        if self._active is not None:
            self._desired = self._active.sample(now)
        return self._desired[0]


class ForwardCommandController:
    """forward_command_controller: the last command stands for ever."""

    def __init__(self, joint_names: Sequence[str], hold: np.ndarray):
        self.joint_names = list(joint_names)
        self.tally = Tally()
        self._target = np.array(hold, dtype=np.float64)

    def accept(self, values: Sequence[float]) -> bool:
        """values: in the order of the controller's joints."""
        if len(values) != len(self.joint_names):
            message = f"{len(values)} values for {len(self.joint_names)} joints"
            self.tally.refuse(Rejected("wrong_size", message))
            return False
        self._target = np.array(values, dtype=np.float64)
        self.tally.accepted += 1
        return True

    def sample(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        return self._target


def check(command: Command, joint_names: Sequence[str], now: float) -> None:
    """Raise Rejected where joint_trajectory_controller refuses a trajectory."""
    if sorted(command.joint_names) != sorted(joint_names):
        raise Rejected(
            "joints",
            f"joints {list(command.joint_names)} are not the controller's {list(joint_names)}",
        )
    if not command.points:
        raise Rejected("empty", "no points")
    for name, speed in zip(command.joint_names, _given(command.points[-1].velocities), strict=False):
        if abs(speed) > AT_REST:
            raise Rejected("ends_moving", f"velocity of the last point of {name} is {speed:.4g}, not zero")
    end = command.stamp + command.points[-1].time
    if command.stamp != 0.0 and end < now:
        raise Rejected("ends_in_past", f"ends {now - end:.3f} s in the past")
    for index, point in enumerate(command.points):
        if index and point.time <= command.points[index - 1].time:
            raise Rejected("times", f"time_from_start of point {index} is not after that of the point before")
        _check_sizes(point, index, len(joint_names))


def _check_sizes(point: Point, index: int, joints: int) -> None:
    for name in ("positions", "velocities", "accelerations"):
        count = len(_given(getattr(point, name)))
        if count != joints and (count or name == "positions"):
            raise Rejected("sizes", f"point {index} has {count} {name} for {joints} joints")
    if point.effort:
        raise Rejected("effort", f"point {index} has effort: this controller commands positions")


def _given(values: Sequence[float] | None) -> Sequence[float]:
    return () if values is None else values


def _sorted(command: Command, joint_names: Sequence[str]) -> Command:
    """The same command with its vectors in the order of `joint_names`."""
    names = list(command.joint_names)
    if names == list(joint_names):
        return command
    order = [names.index(name) for name in joint_names]

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[order]

    points = [Point(p.time, pick(p.positions), pick(p.velocities), pick(p.accelerations)) for p in command.points]
    return Command(command.stamp, joint_names, points)


@dataclass(frozen=True)
class _Active:
    """A trajectory placed in time; all point times count from `start` (s, ROS clock).

    before: where the arm was when the trajectory took over.
    """

    command: Command
    start: float
    before: Point
    times: list[float]

    @classmethod
    def begin(cls, command: Command, now: float, positions: np.ndarray, velocities: np.ndarray) -> _Active:
        start = command.stamp or now
        return cls(
            command,
            start,
            Point(now - start, positions, velocities),
            [p.time for p in command.points],
        )

    def sample(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """(positions, velocities) on the way to the first point, between two, or after the last."""
        points, time = self.command.points, now - self.start
        index = bisect_right(self.times, time)
        if index == 0:
            return between(self.before, points[0], time)
        if index == len(points):
            return points[-1].positions, np.zeros_like(points[-1].positions)
        return between(points[index - 1], points[index], time)
