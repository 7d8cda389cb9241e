# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What stops coming: images, joint states, the answer of the model. Each is told by name, and the arm ends at rest by
the trajectory that it has. The real loop, buffer, inference thread and motion; our own clock and policy."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from pi_vla_ros import inference
from pi_vla_ros.control.motion import State
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.control_loop import ControlLoop
from pi_vla_ros.processing.frames import ordinary
from pi_vla_ros.types import ActionChunk

TICK = 1 / 30


class Policy:
    """Answers at once, unless told to hang: then when `go` is set."""

    empty_frame = staticmethod(ordinary)

    def __init__(self, robot):
        self._robot, self.go, self.asked = robot, threading.Event(), 0
        self.go.set()

    def check_prompt(self, prompt): ...

    def infer(self, observation, previous, delay):
        self.asked += 1
        assert self.go.wait(60)
        wave = 0.1 * np.sin(np.arange(50) / 5)[:, None]
        return ActionChunk(self._robot.home + wave * np.arange(8) / 8, observation.stamp, 0.1)


class Rig:
    """Ticks the loop on a clock of its own; images and joint states come with each tick while they are on."""

    def __init__(self, robot):
        self.robot, self.now, self.sent, self.complaints = robot, 1000.0, [], []
        self.images = self.states = True
        self.policy = Policy(robot)
        outputs = SimpleNamespace(open=lambda: None, silence=lambda: None, send=self._send)
        complain = lambda reason, detail: self.complaints.append((reason, detail))  # noqa: E731
        self.loop = ControlLoop(robot, self.policy, outputs, lambda: self.now, lambda *_: None, complain)
        assert self.loop.take_prompt("wave") is None

    def _send(self, plan):
        self.sent.append(plan.trajectory)
        return True

    def tick(self):
        self.now += TICK
        stamp = SimpleNamespace(sec=int(self.now), nanosec=int(self.now % 1 * 1e9))
        header = SimpleNamespace(stamp=stamp)
        if self.images:
            for slot in self.robot.cameras:
                pixels = dict(height=4, width=4, step=12, encoding="rgb8", data=bytes(48))
                self.loop.put_image(slot, SimpleNamespace(header=header, **pixels))
        if self.states:
            position = self._position().tolist()
            self.loop.put_joint_state(SimpleNamespace(header=header, name=self.robot.joint_names, position=position))
        asked = self.policy.asked
        self.loop.tick()
        if self.policy.go.is_set():  # our clock stands still while the other thread works
            while self.loop._inference.busy:
                time.sleep(1e-4)
        return self.policy.asked > asked

    def _position(self):
        return sample(self.loop.motion.trajectory, self.now)[0] if self.loop.motion.trajectory else self.robot.home

    def run(self, seconds):
        states = []
        for _ in range(round(seconds / TICK)):
            self.tick()
            states.append(self.state())
        return states

    def state(self):
        return self.loop.motion.update(self.now)

    @property
    def drops(self):
        return self.loop.telemetry.drops


@pytest.fixture
def rig(sim_robot):
    rig = Rig(sim_robot)
    rig.run(1.0)
    assert rig.state() is State.RUNNING and not rig.complaints
    yield rig
    rig.policy.go.set()
    assert rig.loop.close()


def test_an_inference_that_hangs_is_told_by_name_and_the_arm_rests_by_itself(rig):
    timeout = rig.robot.timing.timeout
    rig.policy.go.clear()
    rig.tick()
    sent, asked_at = len(rig.sent), rig.now
    states = rig.run(timeout - 2 * TICK)
    assert rig.drops["inference_stalled"] == 0 and State.ENDING in states
    states += rig.run(4 * TICK)
    assert rig.now > asked_at + timeout and states[-1] is State.HOLDING  # at rest by then
    assert rig.loop.telemetry.stalled and rig.drops["inference_stalled"] == 1
    assert "timing.timeout (0.8 s)" in rig.loop.telemetry.detail and "GPU" in rig.loop.telemetry.detail
    rig.run(1.0)
    assert [reason for reason, _ in rig.complaints] == ["inference_stalled"]  # once
    assert len(rig.sent) == sent and (rig.sent[-1].velocities[-1] == 0).all()
    assert np.ptp([rig._position(), rig.sent[-1].positions[-1]], axis=0).max() == 0
    # the answer comes after all: it is stale, and the next one is not
    rejected = dict(rig.loop.motion.counters.rejected)
    rig.policy.go.set()
    while rig.loop._inference.busy:
        time.sleep(1e-4)
    assert rig.loop.motion.counters.rejected == rejected | {"chunk_too_old": 1}
    assert rig.state() is State.HOLDING and len(rig.sent) == sent and not rig.loop.telemetry.stalled
    rig.run(0.2)
    assert rig.state() is State.RUNNING


def test_status_and_diagnostics_tell_of_a_stall_and_of_what_was_clipped(rig):
    telemetry = pytest.importorskip("pi_vla_ros.ros.telemetry", reason="the messages are not built")
    from diagnostic_msgs.msg import DiagnosticStatus

    def told():
        status = telemetry.status_message(rig.now, rig.loop, None)
        motion, inference = telemetry.diagnostics_message(rig.now, "node", status, rig.loop.buffer).status[:2]
        return status, inference, {pair.key: pair.value for pair in motion.values}

    status, inference, _ = told()
    assert not status.inference_stalled and inference.level == DiagnosticStatus.OK
    counters = rig.loop.motion.counters
    counters.clipped, counters.clip_most = np.array([1, 2, 3, 4]), np.array([0.1, 0.25, 3.0, 40.0])
    rig.policy.go.clear()
    rig.run(rig.robot.timing.timeout + 3 * TICK)
    status, inference, values = told()
    assert status.inference_stalled and inference.level == DiagnosticStatus.ERROR
    assert inference.message.startswith("inference_stalled: the inference has been running")
    assert [getattr(status, f"clipped_{limit}") for limit in telemetry.LIMITS] == [1, 2, 3, 4]
    assert [getattr(status, f"clip_most_{limit}") for limit in telemetry.LIMITS] == [0.1, 0.25, 3.0, 40.0]
    assert (values["clipped_acceleration"], values["clip_most_velocity"]) == ("3", "0.25")


def test_an_inference_that_never_ends_does_not_keep_the_node(sim_robot, monkeypatch):
    monkeypatch.setattr(inference, "PATIENCE", 0.2)
    rig = Rig(sim_robot)
    rig.policy.go.clear()
    rig.tick()
    rig.tick()
    while not rig.policy.asked:
        time.sleep(1e-4)
    assert not rig.loop.close()
    rig.policy.go.set()  # and when it ends later, nobody is told
    rig.loop._inference._thread.join(10)
    assert rig.loop.telemetry.inferences == 0


@pytest.mark.parametrize(("what", "reason"), [("images", "image_too_old"), ("states", "state_too_old")])
def test_images_or_joint_states_that_stop_are_told_by_name_and_the_arm_rests(rig, what, reason):
    timing = rig.robot.timing
    setattr(rig, what, False)
    stopped_at = rig.now
    rig.run(timing.max_age - 2 * TICK)
    assert rig.drops[reason] == 0
    states = rig.run(4 * TICK)
    assert rig.drops[reason] > 0 and reason in rig.loop.telemetry.reasons
    assert f"timing.max_age ({timing.max_age} s)" in rig.loop.telemetry.reasons[reason]
    states += rig.run(timing.timeout)
    assert State.ENDING in states and states[-1] is State.HOLDING
    assert rig.sent[-1].end <= stopped_at + timing.timeout + timing.max_age
    setattr(rig, what, True)
    rig.run(0.3)
    assert rig.state() is State.RUNNING
