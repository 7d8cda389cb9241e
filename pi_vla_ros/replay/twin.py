# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy node's ControlLoop on a recording's clock: only clock, outputs and the time of inference differ."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from pi_vla_ros.control_loop import ControlLoop, Telemetry
from pi_vla_ros.inference import Done, Failed, Infers, failure, observe
from pi_vla_ros.observation_buffer import Snapshot
from pi_vla_ros.processing.frames import decode_all
from pi_vla_ros.replay.lane import Lane, Measured
from pi_vla_ros.replay.source import Event
from pi_vla_ros.replay.untracked import untracked
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Observation

Told = Callable[[Observation, ActionChunk, Snapshot, float], None]


class Twin:
    """lanes[0] is the node's motion; further lanes get its chunks after other delays.

    told(observation, chunk, snapshot, ms) hears of every inference; `ms` is what it took here.
    """

    def __init__(self, robot: RobotConfig, policy: Infers, prompt: str, delays: list[int], start_ns: int, told: Told):
        """prompt: given for the whole recording; empty: the robot file's, then what was recorded. delays: ns."""
        robot = untracked(robot)
        self._node, self._others = Measured(robot), [Lane(robot, delay) for delay in delays[1:]]
        self.lanes: list[Measured] = [self._node, *self._others]
        self._clock_ns, self._delay, self._told = start_ns, delays[0], told
        self._loop = ControlLoop(robot, policy, self._node, self._now, _nobody, _nobody, self._make_inference)
        self._node.motion = self._loop.motion
        self._fixed = bool(prompt)
        if prompt or robot.prompt:
            refused = self._loop.take_prompt(prompt or robot.prompt)
            if refused:
                raise ValueError(refused)

    @property
    def prompt(self) -> str:
        return self._loop.prompt

    @property
    def telemetry(self) -> Telemetry:
        return self._loop.telemetry

    def put(self, event: Event) -> None:
        """An image, joint state or prompt arrives."""
        self._clock_ns = max(self._clock_ns, event.received)
        if event.kind == "image":
            self._loop.put_image(event.slot, event.message)
        elif event.kind == "state":
            self._loop.put_joint_state(event.message)
        elif not self._fixed:
            refused = self._loop.take_prompt(event.message.data)
            if refused:
                self.telemetry.drop("prompt_refused", refused)

    def tick(self, now_ns: int) -> list[np.ndarray | None]:
        """One tick of the timer; what each lane commands at that moment, (joints,) or None."""
        self._advance(now_ns)
        self._loop.tick()
        self._start_others()
        now = self._now()
        return [lane.note(now) for lane in self.lanes]

    def reasons(self) -> dict[str, int]:
        """Ticks without an inference and data that was thrown away, by reason, as in the node's status."""
        rejected, dropped = Counter(self._loop.motion.counters.rejected), Counter(self._loop.buffer.dropped)
        return dict(sorted((self.telemetry.drops + dropped + rejected).items()))

    def details(self) -> dict[str, str]:
        """Reason -> the first of its kind, in words."""
        found = dict(self.telemetry.reasons)
        if "no_prompt" in found:
            found["no_prompt"] = "no prompt: give --prompt; the recording and the robot file have none"
        return dict(sorted(found.items()))

    def _now(self) -> float:
        return self._clock_ns * 1e-9

    def _make_inference(self, policy: Infers, done: Done, failed: Failed) -> TimedInference:
        self._inference = TimedInference(policy, done, failed, self._delay, lambda: self._clock_ns, self._answered)
        return self._inference

    def _advance(self, now_ns: int) -> None:
        """Chunks that are ready by `now_ns` take over at the time when they were."""
        for lane in self._others:
            lane.advance(now_ns)
        if self._inference.busy and self._inference.ready_ns <= now_ns:
            self._clock_ns = self._inference.ready_ns
            self._node.following = self._inference.chunk
            self._inference.deliver()
            self._node.following = None
        self._clock_ns = now_ns

    def _answered(self, observation: Observation, chunk: ActionChunk, snapshot: Snapshot, ms: float) -> None:
        self._told(observation, chunk, snapshot, ms)
        for lane in self._others:
            lane.ask(chunk, self._clock_ns)

    def _start_others(self) -> None:
        """They begin when and where the node began."""
        waiting = [lane for lane in self._others if lane.motion.trajectory is None]
        if waiting and self._node.motion.trajectory is not None:
            for lane in waiting:
                lane.motion.start(self._node.motion.trajectory.positions[0], self._now())


class TimedInference:
    """An Inference that takes `delay` ns of the recording's clock, whatever it takes here."""

    def __init__(self, policy: Infers, done: Done, failed: Failed, delay: int, now_ns: Callable[[], int], told: Told):
        self._policy, self._done, self._failed = policy, done, failed
        self._delay, self._now_ns, self._told = delay, now_ns, told
        self.chunk: ActionChunk | None = None
        self.ready_ns, self._prompt = 0, ""

    @property
    def busy(self) -> bool:
        return self.chunk is not None

    def expect(self, slot: str, message: Any) -> None:
        """What is done early elsewhere takes no time here."""

    def submit(self, snapshot: Snapshot, prompt: str, previous: ActionChunk | None, delay: float) -> None:
        begin = time.perf_counter()
        try:
            observation = observe(snapshot, prompt, functools.partial(decode_all, empty=self._policy.empty_frame))
            chunk = self._policy.infer(observation, previous, delay)
        except Exception as error:
            self._failed(*failure(error))
            return
        self.chunk, self._prompt, self.ready_ns = chunk, prompt, self._now_ns() + self._delay
        self._told(observation, chunk, snapshot, 1e3 * (time.perf_counter() - begin))

    def deliver(self) -> None:
        """The time is up."""
        chunk, self.chunk = self.chunk, None
        self._done(chunk, self._prompt)

    def close(self) -> bool:
        return True


def _nobody(*_) -> None:
    """Hears what the node would publish or log."""
