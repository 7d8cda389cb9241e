# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A motion controller on the clock of a recording, with an inference that takes a given time."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.motion import MotionController
from pi_vla_ros.control.planner import Plan
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.replay.executed import Executed
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk


class Lane:
    """Gets its chunks `delay` ns after the tick that asked for them; what it commands goes nowhere and is measured.

    states: ticks by state of the motion.
    """

    def __init__(self, robot: RobotConfig, delay: int):
        self.delay, self.executed = delay, Executed(robot)
        self.motion = MotionController(robot, self._send)
        self.states: dict[str, int] = {}
        self._pending: tuple[int, ActionChunk] | None = None
        self._chunk: ActionChunk | None = None  # the one that is being planned

    @property
    def busy(self) -> bool:
        return self._pending is not None

    def ask(self, chunk: ActionChunk, now: int) -> None:
        """`chunk` answers the tick at `now` ns. Only while not `busy`."""
        self._pending = (now + self.delay, chunk)

    def advance(self, now: int) -> None:
        """Let a chunk take over that is ready by `now` ns, at the time when it was."""
        if self._pending is None or self._pending[0] > now:
            return
        (ready, self._chunk), self._pending = self._pending, None
        self.motion.chunk(self._chunk, lambda: ready * 1e-9)
        self._chunk = None

    def note(self, now: float) -> np.ndarray | None:
        """Count the state at a tick, `now` s; positions (joints,) commanded then, None before there are any."""
        state = self.motion.update(now).name
        self.states[state] = self.states.get(state, 0) + 1
        trajectory = self.motion.trajectory
        return None if trajectory is None else sample(trajectory, now)[0]

    def finish(self, now: float) -> None:
        """The recording ends at `now` s."""
        self.executed.finish(int(now / self.motion.planner.step))

    def _send(self, plan: Plan) -> bool:
        self.executed.switch(plan, self._chunk)
        return True
