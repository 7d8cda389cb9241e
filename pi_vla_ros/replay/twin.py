# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy node without ROS: the same buffer, policy and motion at the node's tick times on a recording's clock.

Read `tick` beside `PolicyNode._tick`: it is the same story, with an inference whose time is given instead of taken.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np

from pi_vla_ros.observation_buffer import Nothing, ObservationBuffer, Snapshot
from pi_vla_ros.processing.frames import FrameError, decode
from pi_vla_ros.replay.lane import Lane
from pi_vla_ros.replay.source import Event, feed
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Observation


class Infers(Protocol):
    """What the twin needs of a Policy."""

    def infer(self, observation: Observation) -> ActionChunk: ...

    def check_prompt(self, prompt: str) -> None: ...


class Twin:
    """lanes[0] is the node; further lanes get the same chunks after other delays.

    told(observation, chunk, snapshot, ms) hears of every inference; `ms` is what it took here.
    """

    def __init__(
        self,
        robot: RobotConfig,
        policy: Infers,
        prompt: str,
        delays: list[int],
        told: Callable[[Observation, ActionChunk, Snapshot, float], None],
    ):
        """prompt: given for the whole recording; empty: the robot file's, then what was recorded. delays: ns."""
        self.lanes = [Lane(robot, delay) for delay in delays]
        self.buffer = ObservationBuffer(robot)
        self.ticks = self.inferences = self.deadline_misses = 0
        self.drops: Counter = Counter()
        self.details: dict[str, str] = {}  # reason -> the first of its kind, in words
        self._policy, self._told = policy, told
        self._fixed, self.prompt = bool(prompt), prompt or robot.prompt
        if self.prompt:
            policy.check_prompt(self.prompt)

    def put(self, event: Event) -> None:
        """An image, joint state or prompt arrives."""
        if event.kind == "prompt":
            self._take_prompt(event.message.data)
            return
        refused = feed(self.buffer, event)
        if refused:
            self.details.setdefault(refused.reason, refused.detail)

    def tick(self, now_ns: int) -> list[np.ndarray | None]:
        """One tick of the timer; what each lane commands at that moment, (joints,) or None."""
        now = now_ns * 1e-9
        self.ticks += 1
        for lane in self.lanes:
            lane.advance(now_ns)
        node = self.lanes[0]
        if node.motion.trajectory is None:
            self._start_motion(now)
        if node.busy:
            self.deadline_misses += 1
        elif not self.prompt:
            self._drop("no_prompt", "no prompt: give --prompt; the recording and the robot file have none")
        else:
            taken = self.buffer.take(now)
            if isinstance(taken, Nothing):
                self._drop(taken.reason, taken.detail)
            else:
                self._infer(taken, now_ns)
        return [lane.note(now) for lane in self.lanes]

    def reasons(self) -> dict[str, int]:
        """Ticks without an inference and data that was thrown away, by reason, as in the node's status."""
        rejected = Counter(self.lanes[0].motion.counters.rejected)
        return dict(sorted((self.drops + Counter(self.buffer.dropped) + rejected).items()))

    def _start_motion(self, now: float) -> None:
        measured = self.buffer.newest_state(now)
        if not isinstance(measured, Nothing):
            for lane in self.lanes:
                lane.motion.start(measured[1], now)

    def _infer(self, snapshot: Snapshot, now_ns: int) -> None:
        begin = time.perf_counter()
        try:
            images = {slot: decode(message) for slot, (_, message) in snapshot.frames.items()}
            observation = Observation(images, snapshot.state, self.prompt, snapshot.stamp)
            chunk = self._policy.infer(observation)
        except FrameError as error:
            self._drop("image_unreadable", str(error))
            return
        self.inferences += 1
        self._told(observation, chunk, snapshot, 1e3 * (time.perf_counter() - begin))
        for lane in self.lanes:
            if not lane.busy:
                lane.ask(chunk, now_ns)

    def _take_prompt(self, prompt: str) -> None:
        if self._fixed:
            return
        try:
            self._policy.check_prompt(prompt)
        except ValueError as error:
            self._drop("prompt_refused", str(error))
        else:
            self.prompt = prompt

    def _drop(self, reason: str, detail: str) -> None:
        self.drops[reason] += 1
        self.details.setdefault(reason, detail)
