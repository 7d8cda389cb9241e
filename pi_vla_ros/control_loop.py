# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One tick after the other: observation -> inference -> motion. What the node does, without ROS.

The node drives it by its timer, with an inference thread; a replay by a recording's clock, with an inference that takes
a given time. `tick` never waits; `_on_chunk` runs where the inference runs.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pi_vla_ros.control.motion import MotionController, State
from pi_vla_ros.control.planner import Plan
from pi_vla_ros.control.tracking import TrackingGuard
from pi_vla_ros.inference import Done, Failed, Inference, InferenceThread, Infers
from pi_vla_ros.observation_buffer import Nothing, ObservationBuffer
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, seconds

CLOCK_BACK, CLOCK_AHEAD = 0.5, 5.0  # s that the ROS clock may step between two ticks
DELAYS = 30  # measured delays that the expectation of the next one goes by


class Takes(Protocol):
    """Where plans go."""

    def open(self) -> None: ...

    def silence(self) -> None: ...

    def send(self, plan: Plan) -> bool:
        """False when the plan came too late to take over without a step."""


@dataclass
class Telemetry:
    """Counted as things happen; times in ms, skew of the last set. reasons: why something was dropped, in words."""

    ticks: int = 0
    inferences: int = 0
    deadline_misses: int = 0
    drops: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    inference_ms: float = 0.0
    plan_ms: float = 0.0
    skew_ms: float = 0.0
    stalled: bool = False  # the inference under way takes longer than the arm may wait

    def drop(self, reason: str, detail: str) -> None:
        self.drops[reason] += 1
        self.tell(reason, detail)

    def tell(self, reason: str, detail: str) -> None:
        self.detail = detail
        self.reasons.setdefault(reason, detail)


class ControlLoop:
    """Everything between the messages that come in and the plans that go out, for one robot and one policy.

    now: the ROS clock, s. told(chunk, prompt): every chunk of the policy, where the inference runs.
    complain(reason, detail): what went wrong, for the log. inference: what makes the Inference.
    """

    def __init__(
        self,
        robot: RobotConfig,
        policy: Infers,
        outputs: Takes,
        now: Callable[[], float],
        told: Callable[[ActionChunk, str], None],
        complain: Callable[[str, str], None],
        inference: Callable[[Infers, Done, Failed], Inference] = InferenceThread,
    ):
        self.prompt = ""
        self.buffer, self.telemetry = ObservationBuffer(robot), Telemetry()
        self.motion = MotionController(robot, outputs.send)
        self._robot, self._policy, self._outputs = robot, policy, outputs
        self._now, self._told, self._complain = now, told, complain
        self._tracking = TrackingGuard(robot)
        self._inference = inference(policy, self._on_chunk, self.fail)
        self.begin()

    def begin(self) -> None:
        """Before the first tick, and after a pause."""
        self._clock = self._now()
        # what real-time chunking goes by: the chunk being executed, and how long a chunk takes to take over
        self._executed: ActionChunk | None = None
        self._delays, self._delay = deque(maxlen=DELAYS), 0.0

    def put_image(self, slot: str, message: Any) -> None:
        """A sensor_msgs/Image or CompressedImage of camera `slot` arrived."""
        self.buffer.put_image(slot, seconds(message.header.stamp), message, self._now())
        self._inference.expect(slot, message)

    def put_joint_state(self, message: Any) -> None:
        """A sensor_msgs/JointState arrived."""
        refused = self.buffer.put_state(seconds(message.header.stamp), message.name, message.position)
        if refused:
            self.telemetry.tell(refused.reason, refused.detail)
            self._complain(refused.reason, refused.detail)

    def take_prompt(self, prompt: str) -> str | None:
        """Use a prompt from the next tick on; says why when it cannot be used, and keeps the one before."""
        try:
            self._policy.check_prompt(prompt)
        except ValueError as error:
            return str(error)
        self.prompt = prompt
        return None

    def tick(self) -> None:
        """Take the newest coherent set and hand it to the inference."""
        now, telemetry = self._now(), self.telemetry
        telemetry.ticks += 1
        self._watch_clock(now)
        self._watch_motion(now)
        if self._inference.busy:
            telemetry.deadline_misses += 1
            self._watch_inference(now)
        elif not self.prompt:
            telemetry.drop("no_prompt", "no prompt: give parameter prompt or publish ~/prompt")
        else:
            taken = self.buffer.take(now)
            if isinstance(taken, Nothing):
                telemetry.drop(taken.reason, taken.detail)
            else:
                telemetry.skew_ms = 1e3 * taken.skew
                self._asked, telemetry.stalled = now, False
                self._submitted = time.perf_counter()
                moving = self.motion.update(now) in (State.RUNNING, State.ENDING)
                self._inference.submit(taken, self.prompt, self._executed if moving else None, self._delay)

    def fail(self, reason: str, detail: str) -> None:
        """Count, tell and log something that went wrong."""
        self.telemetry.drop(reason, detail)
        self._complain(reason, detail)

    def fall_silent(self) -> None:
        """Command nothing until the next tick finds a measured state to begin from."""
        self._outputs.silence()
        self.motion.stopped(self._now())

    def close(self) -> bool:
        """False when an inference hangs: then the policy must not be touched any more."""
        return self._inference.close()

    def _watch_motion(self, now: float) -> None:
        """Begin at the measured state, without one command nothing; later see that the arm follows."""
        measured = self.buffer.newest_state(now)
        if isinstance(measured, Nothing):
            if self.motion.trajectory is None:
                self.telemetry.detail = measured.detail
            return
        stamp, state = measured[0], self._robot.positions(measured[1])
        trajectory = self.motion.trajectory
        if trajectory is not None:
            fault = self._tracking.check(trajectory, state, stamp)
            if fault and self.motion.enabled:
                self.motion.enable(False, now)
                self.fail("tracking_error", fault)
        elif not self.motion.estopped:
            self._tracking.reset()
            self._outputs.open()
            self.motion.start(state, now)

    def _watch_inference(self, now: float) -> None:
        """The arm needs no help when an inference hangs: its trajectory ends by itself. People do."""
        timeout = self._robot.timing.timeout
        if not self.telemetry.stalled and now - self._asked > timeout:
            self.telemetry.stalled = True
            self.fail(
                "inference_stalled",
                f"the inference has been running for more than timing.timeout ({timeout} s): the arm stops, and what "
                "comes of it will not be executed. Does the GPU hang? Then restart the node",
            )

    def _watch_clock(self, now: float) -> None:
        """A clock that jumped (a bag that loops, a simulation that was reset) makes all that was planned void."""
        jumped = not -CLOCK_BACK < now - self._clock < CLOCK_AHEAD
        self._clock = now
        if jumped:
            self.fail("clock_jump", "the ROS clock jumped: starting anew from the measured state")
            self.fall_silent()
            self.buffer.clear()

    def _on_chunk(self, chunk: ActionChunk, prompt: str) -> None:
        """Let the chunk take over, tell what the policy said."""
        inferred, telemetry = time.perf_counter(), self.telemetry
        refused = self.motion.chunk(chunk, self._now)
        if not refused:
            self._executed = chunk
            self._delays.append(self._now() + self._robot.motion.margin - chunk.stamp)
            self._delay = float(np.percentile(self._delays, self._robot.motion.rtc_delay_percentile))
        telemetry.inferences += 1
        telemetry.stalled = False
        telemetry.stage_ms = chunk.stage_ms
        telemetry.inference_ms = 1e3 * (inferred - self._submitted)
        telemetry.plan_ms = 1e3 * (time.perf_counter() - inferred)
        telemetry.detail = f"chunk not executed: {refused}" if refused else ""
        self._told(chunk, prompt)
