# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Motion on the clock of a recording: what a motion controller commands goes nowhere and is measured."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.motion import MotionController
from pi_vla_ros.control.planner import Plan
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.replay.executed import Executed
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk


class Measured:
    """Takes the plans of a motion controller as the node's outputs do. states: ticks by state of the motion."""

    motion: MotionController  # whose plans these are; set by whoever makes it

    def __init__(self, robot: RobotConfig):
        self.executed = Executed(robot)
        self.states: dict[str, int] = {}
        self.following: ActionChunk | None = None  # the chunk that is being planned; none for a plan that holds

    def open(self) -> None:
        pass

    def silence(self) -> None:
        pass

    def send(self, plan: Plan) -> bool:
        self.executed.switch(plan, self.following)
        return True

    def note(self, now: float) -> np.ndarray | None:
        """Count the state at a tick, `now` s; positions (joints,) commanded then, None before there are any."""
        state = self.motion.update(now).name
        self.states[state] = self.states.get(state, 0) + 1
        trajectory = self.motion.trajectory
        return None if trajectory is None else sample(trajectory, now)[0]

    def finish(self, now: float) -> None:
        """The recording ends at `now` s."""
        self.executed.finish(int(now / self.motion.planner.step))


class Lane(Measured):
    """A motion controller that gets the node's chunks, but `delay` ns after the tick that asked for them."""

    def __init__(self, robot: RobotConfig, delay: int):
        super().__init__(robot)
        self.motion = MotionController(robot, self.send)
        self._delay = delay
        self._pending: tuple[int, ActionChunk] | None = None

    def ask(self, chunk: ActionChunk, now: int) -> None:
        """`chunk` answers the tick at `now` ns; left out while one before it is on its way."""
        if self._pending is None:
            self._pending = (now + self._delay, chunk)

    def advance(self, now: int) -> None:
        """Let a chunk take over that is ready by `now` ns, at the time when it was."""
        if self._pending is None or self._pending[0] > now:
            return
        (ready, self.following), self._pending = self._pending, None
        self.motion.chunk(self.following, lambda: ready * 1e-9)
        self.following = None
