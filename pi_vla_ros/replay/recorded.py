# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demonstration commanded, as a function of time: the truth that predictions are compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pi_vla_ros.replay.source import Commands, SourceError
from pi_vla_ros.types import seconds

# A command of a stream that comes this much after the one before is a new motion, not the end of a slow ramp.
PAUSE = 0.1  # s
ROOM = 4096  # knots at first


class Track:
    """Knots (time s, positions (joints,)), linear between them; old ones can be forgotten."""

    def __init__(self, joints: int):
        self._times, self._values = np.zeros(ROOM), np.zeros((ROOM, joints))
        self._first = self._count = 0

    @property
    def times(self) -> np.ndarray:
        return self._times[self._first : self._count]

    @property
    def values(self) -> np.ndarray:
        return self._values[self._first : self._count]

    def add(self, times: np.ndarray, values: np.ndarray) -> None:
        """Append knots, (n,) and (n, joints); those not after the last are left out."""
        if len(self.times):
            later = times > self.times[-1]
            times, values = times[later], values[later]
        self._reserve(len(times))
        self._times[self._count : self._count + len(times)] = times
        self._values[self._count : self._count + len(times)] = values
        self._count += len(times)

    def cut(self, time: float) -> None:
        """Forget what was to come from `time` on."""
        self._count = self._first + int(np.searchsorted(self.times, time))

    def forget(self, time: float) -> None:
        """Free what is not needed for times from `time` on."""
        self._first += max(0, int(np.searchsorted(self.times, time, side="right")) - 1)

    def at(self, times: np.ndarray) -> np.ndarray:
        """(n, joints); NaN before the first knot, held after the last."""
        if not len(self.times):
            return np.full((len(times), self._values.shape[1]), np.nan)
        after = np.clip(np.searchsorted(self.times, times, side="right"), 1, len(self.times) - 1)
        if len(self.times) == 1:
            found = np.repeat(self.values, len(times), axis=0)
        else:
            t0, t1 = self.times[after - 1], self.times[after]
            share = np.clip((times - t0) / (t1 - t0), 0.0, 1.0)[:, None]
            found = self.values[after - 1] * (1 - share) + self.values[after] * share
        return np.where((times < self.times[0])[:, None], np.nan, found)

    def _reserve(self, count: int) -> None:
        if self._count + count <= len(self._times):
            return
        kept = self._count - self._first
        room = max(ROOM, 2 * (kept + count))
        times, values = np.zeros(room), np.zeros((room, self._values.shape[1]))
        times[:kept], values[:kept] = self.times, self.values
        self._times, self._values, self._first, self._count = times, values, 0, kept


class RecordedCommands:
    """Recorded command messages -> what was commanded at any time, as a controller takes them.

    joint_trajectory: the newest message counts from the moment it came, linear between its points, from the motion
                      under way to its first point.
    commands:         values count from the moment they came; after a pause they are a step, else linear between.
    joint_states:     measured positions, `shift` s earlier: a command is what the arm does a little later.
    """

    def __init__(self, kind: Commands, names: list[str], shift: float, source: str):
        self._kind, self._names, self._shift, self._source = kind, names, shift, source
        self._track = Track(len(names))
        self.known = -math.inf  # s: up to here nothing will change any more

    def put(self, message: Any, received: float) -> None:
        """A command message that was received at `received` s. Raises SourceError on one that does not fit."""
        {"joint_trajectory": self._trajectory, "commands": self._array, "joint_states": self._state}[self._kind](
            message, received
        )

    def passed(self, now: float) -> None:
        """The recording has been read up to `now` s."""
        late = {"joint_trajectory": 0.0, "commands": PAUSE, "joint_states": self._shift + PAUSE}[self._kind]
        self.known = max(self.known, now - late)

    def forget(self, time: float) -> None:
        """Nothing before `time` s will be asked for."""
        self._track.forget(time)

    def at(self, times: np.ndarray) -> np.ndarray:
        """(n, joints) rad or m; NaN where nothing is known."""
        return np.where((times > self.known)[:, None], np.nan, self._track.at(times))

    def finish(self, now: float) -> None:
        """The recording ends at `now` s."""
        last = self._track.times[-1] if len(self._track.times) else -math.inf
        self.known = last if self._kind == "joint_states" else now

    def _trajectory(self, message: Any, received: float) -> None:
        order = self._order(message.joint_names)
        points = message.points
        if not points:  # asks a controller to stop
            return
        start = seconds(message.header.stamp) or received
        times = np.array([start + p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in points])
        values = np.array([p.positions for p in points], dtype=float)
        if values.shape != (len(points), len(message.joint_names)) or not np.isfinite(values).all():
            raise SourceError(
                f"{self._source}: a JointTrajectory has points without (finite) positions of its "
                f"{len(message.joint_names)} joints"
            )
        new, values = Track(len(order)), values[:, order]
        new.add(times, values)
        here = new.at(np.array([received])) if times[0] <= received else self._track.at(np.array([received]))
        self._track.cut(received)
        if np.isfinite(here).all():
            self._track.add(np.array([received]), here)
        self._track.add(times, values)

    def _array(self, message: Any, received: float) -> None:
        values = np.array(message.data, dtype=float)[None]
        if values.shape[1] != len(self._names) or not np.isfinite(values).all():
            raise SourceError(
                f"{self._source}: commands must have {len(self._names)} finite values, one per joint of the robot; "
                f"has {values[0].tolist()}"
            )
        times = self._track.times
        if len(times) and received - times[-1] > PAUSE:
            self._track.add(np.array([received - 1e-3]), self._track.values[-1:].copy())
        self._track.add(np.array([received]), values)

    def _state(self, message: Any, received: float) -> None:
        if not set(self._names) <= set(message.name) or len(message.name) != len(message.position):
            return  # the observation buffer counts these
        values = np.array(message.position, dtype=float)[self._order(message.name)][None]
        if np.isfinite(values).all():
            self._track.add(np.array([seconds(message.header.stamp) - self._shift]), values)

    def _order(self, names) -> list[int]:
        index = {name: i for i, name in enumerate(names)}
        missing = [name for name in self._names if name not in index]
        if missing:
            raise SourceError(
                f"{self._source}: joint_trajectory lacks {', '.join(missing)}; it has {', '.join(names)}. Compare with "
                "the measured motion instead: --commands joint_states"
            )
        return [index[name] for name in self._names]
