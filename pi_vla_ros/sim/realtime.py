# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The arm and its controller in real time: each cycle brings the world up to the clock."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pi_vla_ros.sim.arm import SimArm

CATCH_UP = 0.05  # s: after a longer stall the arm has stood still for the rest, rather than race


class Controller(Protocol):
    def sample(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """Set points at `now` (s, ROS clock), given what is measured."""


@dataclass(frozen=True)
class Snapshot:
    """The world at one instant.

    elapsed: s since start. stamp: s, ROS clock. positions, velocities: (joints,), measured.
    world: for `View.draw`.
    """

    elapsed: float
    stamp: float
    positions: np.ndarray
    velocities: np.ndarray
    world: np.ndarray


class RealTime:
    """Runs in a thread of its own; `newest` may be read from any other."""

    def __init__(
        self,
        arm: SimArm,
        controller: Controller,
        period: float,
        clock: Callable[[], float],
        publish: Callable[[Snapshot], None],
        take: Callable[[], None] = lambda: None,
    ):
        """period: s of a control cycle, a multiple of the arm's step. clock: s, ROS time.

        Each cycle samples the controller, moves the arm, calls `publish` with the new state, then
        `take`, which may give the controller new commands.
        """
        self._arm, self._controller, self._period = arm, controller, period
        self._publish, self._take = publish, take
        self._clock = clock
        self.missed = 0  # cycles in which no state was published
        self.late: deque[float] = deque(maxlen=100_000)  # s behind its deadline, for each state
        self.worst_error = np.zeros(len(arm.robot.joints))  # largest |target - measured|
        self._begin()

    def run(self, stop: threading.Event) -> None:
        with contextlib.suppress(OSError):  # where permitted: before the cameras, which take long
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        self._begin()
        tick = 0
        while not stop.is_set():
            tick += 1
            wait = self._start + tick * self._period - time.monotonic()
            skipped = 0
            if wait > 0:
                time.sleep(wait)
            else:
                skipped = int(-wait / self._period)
                tick += skipped
            deadline = self._start + tick * self._period
            self._advance(deadline, min(1 + skipped, max(1, int(CATCH_UP / self._period))))
            self.missed += skipped
            self.newest = self._look(deadline)
            self.late.append(time.monotonic() - deadline)
            self._publish(self.newest)
            self._take()

    def _begin(self) -> None:
        self._start = time.monotonic()
        self._offset = self._clock() - self._start  # ROS time = monotonic + this, for the whole run
        self.newest = self._look(self._start)

    def _advance(self, deadline: float, cycles: int) -> None:
        """Bring the world to `deadline` (monotonic) by `cycles`, each with its own set point."""
        arm = self._arm
        for left in range(cycles, 0, -1):
            now = deadline + self._offset - left * self._period
            arm.set_targets(self._controller.sample(now, arm.positions(), arm.velocities()))
            arm.step_to(arm.time + self._period)
        np.maximum(self.worst_error, np.abs(arm.target - arm.positions()), out=self.worst_error)

    def _look(self, monotonic: float) -> Snapshot:
        arm = self._arm
        return Snapshot(
            elapsed=monotonic - self._start,
            stamp=monotonic + self._offset,
            positions=arm.positions(),
            velocities=arm.velocities(),
            world=arm.world(),
        )
