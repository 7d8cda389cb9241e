# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an arm would have executed: joins before and after stitching, jerk, speed, along the plans as they follow."""

from __future__ import annotations

from array import array

import numpy as np

from pi_vla_ros.control.planner import Plan
from pi_vla_ros.control.reference import Reference
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Trajectory


class Executed:
    """Told of every plan that takes over; keeps sums, and one row per join."""

    def __init__(self, robot: RobotConfig):
        joints = len(robot.joints)
        self._joints, self._lead = robot.joints, robot.motion.lead
        self._plan: Plan | None = None
        self._next = 0  # tick from which on nothing has been measured yet
        self._last = np.zeros((0, joints))  # velocities of the last two knots measured
        self._joins = array("d")
        self.jerk_squares, self.jerk_peak, self.jerk_count = np.zeros(joints), np.zeros(joints), 0
        self.path = np.zeros(joints)  # rad or m travelled

    def switch(self, plan: Plan, chunk: ActionChunk | None) -> None:
        """`plan` takes over at its join; `chunk` is what it follows, None when it holds or brakes."""
        if self._plan is not None:
            self._measure(self._plan.trajectory, plan.join)
            if chunk is not None:
                self._join(self._plan.trajectory, plan, chunk)
        else:
            self._next = plan.join
        self._plan = plan

    @property
    def joins(self) -> np.ndarray:
        """(joins, 4): the largest steps of raw position, raw velocity, joined position, joined velocity."""
        return np.array(self._joins).reshape(-1, 4)

    def finish(self, tick: int) -> None:
        """The recording ends at `tick` of the plans' grid."""
        if self._plan is not None:
            self._measure(self._plan.trajectory, tick)

    def _join(self, before: Trajectory, plan: Plan, chunk: ActionChunk) -> None:
        """Steps (largest over joints) if the chunk were followed at once, and with the plan that joins it."""
        time = plan.join * before.step
        p, v = sample(before, time)
        reference = Reference(chunk, self._joints, self._lead)
        reference.anchor(time, p)
        raw_p, raw_v = (x[0] for x in reference.at(np.array([time])))
        new_p, new_v = sample(plan.trajectory, time)
        steps = (raw_p - p, raw_v - v, new_p - p, new_v - v)
        self._joins.extend(float(np.abs(step).max()) for step in steps)

    def _measure(self, trajectory: Trajectory, until: int) -> None:
        """Knots [next, until) are final now."""
        if until <= self._next:
            return
        ticks = np.arange(self._next, until) - trajectory.first
        inside = (ticks >= 0) & (ticks < len(trajectory.positions))
        velocities = trajectory.velocities[np.clip(ticks, 0, len(trajectory.positions) - 1)] * inside[:, None]
        self._next = until
        known = np.vstack([self._last, velocities])
        jerk = np.diff(known, n=2, axis=0) / trajectory.step**2
        self.jerk_squares += (jerk**2).sum(axis=0)
        self.jerk_peak = np.maximum(self.jerk_peak, np.abs(jerk).max(axis=0, initial=0.0))
        self.jerk_count += len(jerk)
        self.path += np.abs(velocities).sum(axis=0) * trajectory.step
        self._last = known[-2:]
