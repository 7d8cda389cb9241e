# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process of its own, around it a fake robot, real DDS between: what must hold, in numbers."""

import dataclasses
import itertools
import signal
import time

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from ros_rig import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    STALL,
    Heard,
    PolicyProcess,
    Rig,
    commanded_by_trajectories,
    off_the_path,
    start_ros,
)
from std_msgs.msg import String

from pi_vla_ros.cli.make_checkpoint import make_checkpoint
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import seconds

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]

JOINS = 45  # 1.5 s at least
COMMAND_HZ = 100.0


@pytest.fixture(scope="module")
def robot_file(tmp_path_factory):
    """Robot 'sim' with a stream that a busy machine holds, and room for slow inference."""
    data = yaml.safe_load(package_file("config/robots/sim.yaml").read_text())
    data["output"] = {"mode": "both", "command_hz": COMMAND_HZ}
    data["timing"] |= {"max_age": 0.4, "timeout": 1.2}
    data["motion"] = {"margin": 0.08}
    data["cameras"]["left_wrist_0_rgb"]["transport"] = "compressed"
    path = tmp_path_factory.mktemp("robots") / "test.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Small enough to answer in time on a busy machine."""
    geometry = tiny("pi05")
    geometry = dataclasses.replace(
        geometry,
        vision=dataclasses.replace(geometry.vision, depth=1),
        language=dataclasses.replace(geometry.language, depth=1),
        expert=dataclasses.replace(geometry.expert, depth=1),
    )
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", geometry, "sim", seed=2)


@pytest.fixture(scope="module")
def rig(robot_file):
    start_ros()
    rig = Rig(load_robot(robot_file))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def node(rig, robot_file, checkpoint, tmp_path_factory):
    process = PolicyProcess(
        tmp_path_factory.mktemp("log") / "node.log",
        robot=robot_file,
        checkpoint=checkpoint,
        prompt="'pick up the red block'",
        cpu_threads=1,
        noise_scale=0.1,
        noise_seed=0,
    )
    yield process
    assert process.end() == 0, process.said()
    assert "Traceback" not in process.said()


@pytest.fixture(scope="module")
def run(rig, node):
    """One run through the node's life, in order; the tests look at what was recorded."""
    marks = {}
    assert rig.change_state(CONFIGURE), node.said()
    time.sleep(1.0)  # cameras and joint states reach a node that is configured and must stay silent
    marks["published before activate"] = rig.published()
    assert rig.change_state(ACTIVATE)
    rig.until(lambda: rig.statuses and rig.status.joins >= JOINS, 90.0, f"{JOINS} joins")
    marks["running"] = (rig.commands[0][0], time.time())

    rig.cameras_on = False
    marks["cameras stopped"] = time.time()
    rig.until_state("HOLDING")
    time.sleep(max(0.0, marks["cameras stopped"] + rig.robot.timing.timeout + STALL - time.time()))
    marks["held from"] = time.time()
    rig.until_ticks(10)
    marks["held until"] = time.time()
    rig.cameras_on = True
    rig.until_state("RUNNING")

    rig.switch("enable", False)
    rig.until_state("STOPPED")
    time.sleep(0.8)
    marks["disabled from"] = time.time()
    rig.until_ticks(10)
    marks["disabled until"] = time.time()
    rig.switch("enable", True)
    rig.until_state("RUNNING")

    answer = rig.switch("estop", True)
    assert answer.success, answer.message
    marks["estop answered"] = time.time()
    rig.until_ticks(30)
    marks["estop released"] = time.time()
    marks["enable while latched"] = rig.switch("enable", True)
    marks["state while latched"] = rig.status.state
    rig.switch("estop", False)
    rig.until_state("STOPPED")
    rig.switch("enable", True)
    rig.until_state("RUNNING")
    assert rig.reset().success
    rig.until_state("RUNNING")

    assert rig.change_state(DEACTIVATE)
    marks["deactivated"] = time.time()
    time.sleep(1.0)
    marks["long after deactivate"] = time.time()
    return marks


def _published(rig, begin, end) -> int:
    """Messages that the node sent between two moments, whenever they were heard."""
    return sum(begin < t <= end for kept in (rig.commands, rig.trajectories) for t, _ in kept)


def test_nothing_is_published_before_activate(run):
    assert run["published before activate"] == 0


def test_the_first_command_is_the_measured_state(rig, run):
    np.testing.assert_allclose(rig.commands[0][1], rig.robot.home, atol=1e-9)


def test_sets_are_coherent(rig, run):
    skews = [s.skew_ms for _, s in rig.statuses if s.inferences]
    assert len(skews) > JOINS and max(skews) <= 1e3 * rig.robot.timing.max_skew


def _heard(rig, run) -> list[Heard]:
    _, end = run["running"]
    return [Heard.of(t, m) for t, m in rig.trajectories if t <= end]


def test_commands_are_continuous_across_joins(rig, run):
    """What a trajectory controller commands, 1 ms apart: no step of position or velocity that its limits forbid."""
    heard = _heard(rig, run)
    assert len(heard) >= 20
    interval = 1e-3
    times = np.arange(heard[0].sent + interval, run["running"][1], interval)
    p, v = commanded_by_trajectories(heard, times)
    fastest = np.array([j.velocity for j in rig.robot.joints])
    hardest = np.array([j.acceleration for j in rig.robot.joints])
    assert (np.abs(np.diff(p, axis=0)) <= fastest * interval * 1.001 + 1e-6).all()
    assert (np.abs(np.diff(v, axis=0)) <= hardest * interval * 1.001 + 1e-4).all()
    assert np.abs(p - p[0]).max() > 0.02  # and it did move


def test_trajectories_are_sent_before_they_leave_the_one_before(rig, run):
    left = [b.leaves(a) - b.sent for a, b in itertools.pairwise(_heard(rig, run))]
    assert np.median(left) > 0.0


def test_the_stream_says_the_same_as_the_trajectories(rig, run):
    heard = _heard(rig, run)
    streamed = [(t, p) for t, p in rig.commands if heard[0].sent + 0.2 < t < run["running"][1]]
    off = off_the_path(heard, streamed, STALL)
    assert len(off) > 100 and off.max() < 2e-3  # a path is looked at each millisecond


def test_stream_rate(rig, run):
    """Its period; and after a stall never a burst to make up for it."""
    begin, end = run["running"]
    sent = np.array([t for t, _ in rig.commands if begin <= t < end])
    assert np.median(np.diff(sent)) == pytest.approx(1 / COMMAND_HZ, rel=0.1)
    assert COMMAND_HZ / 4 <= len(sent) / (end - begin) <= COMMAND_HZ * 1.02


def test_limits_hold_on_every_streamed_command(rig, run):
    low, high = np.array([j.position for j in rig.robot.joints]).T
    sent = np.array([p for _, p in rig.commands])
    assert np.isfinite(sent).all() and (sent >= low - 1e-6).all() and (sent <= high + 1e-6).all()


def test_trajectories_are_what_a_controller_accepts(rig, run):
    for sent, message in rig.trajectories:
        after = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in message.points]
        assert message.joint_names == rig.robot.joint_names
        assert all(b > a for a, b in itertools.pairwise(after)) and after[0] >= 0
        assert seconds(message.header.stamp) + after[-1] > sent  # its end is not in the past
        assert seconds(message.header.stamp) <= sent  # already inside: sampled without a bridge
        assert not any(message.points[-1].velocities)
        assert all(len(p.velocities) == 8 for p in message.points)


def test_it_holds_within_the_timeout_after_the_cameras_stop(rig, run):
    """Measured at the stream: still from timeout on (the observation was at most one period old by then)."""
    still = np.array([p for t, p in rig.commands if run["held from"] <= t <= run["held until"]])
    assert len(still) > 5 and np.ptp(still, axis=0).max() == 0.0


def test_disabled_it_holds_and_keeps_publishing(rig, run):
    held = np.array([p for t, p in rig.commands if run["disabled from"] <= t <= run["disabled until"]])
    assert len(held) > 10 and np.ptp(held, axis=0).max() == 0.0


def test_nothing_is_published_after_estop_until_released(rig, run):
    assert run["estop released"] - run["estop answered"] > STALL + 0.3
    assert _published(rig, run["estop answered"] + STALL, run["estop released"]) == 0
    assert not run["enable while latched"].success and "latched" in run["enable while latched"].message
    assert run["state while latched"] == "ESTOP"


def test_deactivate_stops_then_is_silent(rig, run):
    assert _published(rig, run["deactivated"] + STALL, run["long after deactivate"]) == 0


def test_action_chunks_tell_what_the_policy_said(rig, run):
    for _, chunk in rig.chunks:
        assert chunk.names == rig.robot.joint_names and chunk.horizon == 50
        assert len(chunk.actions) == 50 * 8 and chunk.dt == pytest.approx(1 / 10)
        assert chunk.prompt == "pick up the red block"
    sequence = [chunk.sequence for _, chunk in rig.chunks]
    assert sequence == sorted(sequence)


def test_a_blocked_arm_trips_the_tracking_guard(rig, run):
    """Its own part of the run: after deactivate, the arm no longer follows."""
    assert rig.change_state(ACTIVATE)
    rig.until_state("RUNNING")
    blocked = rig.position.copy()
    blocked[0] += 0.8
    rig.measured = lambda: blocked
    rig.until_state("STOPPED")
    drops = dict(zip(rig.status.drop_reasons, rig.status.drop_counts, strict=True))
    assert drops["tracking_error"] == 1 and not rig.status.enabled
    rig.measured = lambda: rig.position
    assert rig.reset().success
    rig.switch("enable", True)
    rig.until_state("RUNNING")
    assert rig.change_state(DEACTIVATE)


def test_status_counts(rig, run):
    last = rig.statuses[-1][1]
    assert last.joins > JOINS and last.commands_sent > 100
    assert last.join_position_step_max < 1e-6 and last.join_velocity_step_max < 1e-5
    assert set(last.stage_names) >= {"preprocess", "vision", "prefix", "expert", "postprocess"}
    assert dict(zip(last.drop_reasons, last.drop_counts, strict=True)).get("disabled", 0) > 0


# --- bad input, on the running node ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def active(rig, run):
    assert rig.change_state(ACTIVATE)
    rig.until_state("RUNNING")
    return rig


def _drops(rig) -> dict:
    return dict(zip(rig.status.drop_reasons, rig.status.drop_counts, strict=True))


def _nan_state(message):
    if hasattr(message, "position"):
        message.position[3] = float("nan")
    return message


def _missing_joint(message):
    if hasattr(message, "position"):
        message.name, message.position = message.name[1:], message.position[1:]
    return message


def _unknown_encoding(message):
    if hasattr(message, "encoding"):
        message.encoding = "yuv422"
    return message


def _truncated(message):
    if hasattr(message, "encoding"):
        message.data = bytes(message.data[:100])
    return message


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        (_nan_state, "state_not_finite"),
        (_missing_joint, "joint_missing"),
        (_unknown_encoding, "image_unreadable"),
        (_truncated, "image_unreadable"),
    ],
)
def test_bad_messages_stop_the_arm_not_the_node(active, node, corrupt, reason):
    before = _drops(active).get(reason, 0)
    active.corrupt = corrupt
    active.until(lambda: _drops(active).get(reason, 0) > before, 20.0, f"drop reason {reason}")
    active.until_state("HOLDING")
    time.sleep(STALL)
    mark = time.time()
    active.until_ticks(5)
    still = np.array([p for t, p in active.commands if t >= mark])
    active.corrupt = lambda message: message
    assert len(still) and np.isfinite(still).all() and np.ptp(still, axis=0).max() == 0.0
    assert reason in node.said()
    active.until_state("RUNNING")


def test_a_camera_with_another_size_is_taken(active):
    def wider(message):
        if hasattr(message, "encoding"):
            message.width, message.step = 128, 384
            message.data = bytes(48 * 384)
        return message

    active.corrupt = wider
    begin = active.status.inferences
    active.until(lambda: active.status.inferences > begin + 5, 20.0, "inferences with wider images")
    active.corrupt = lambda message: message
    assert _drops(active).get("inference_failed", 0) == 0


@pytest.mark.parametrize(("transition", "name"), [(ACTIVATE, "3"), (CLEANUP, "2"), (77, "77")])
def test_a_transition_that_is_not_possible_is_refused_by_name(active, node, transition, name):
    assert not active.change_state(transition)
    assert f"transition {name} is not possible in state 'active'; possible: deactivate (4)" in node.said()
    active.until_ticks(3)
    active.until_state("RUNNING")


@pytest.mark.parametrize("prompt", ["", "   ", "pick " * 300])
def test_a_bad_prompt_is_refused_and_the_last_one_kept(active, node, prompt):
    said = node.said().count("keeping 'pick up the red block'")
    active.prompt.publish(String(data=prompt))
    active.until(lambda: node.said().count("keeping 'pick up the red block'") > said, 10.0, "refusal in the log")
    active.until_ticks(3)
    assert active.status.prompt == "pick up the red block"
    active.until_state("RUNNING")


def test_a_new_prompt_is_taken(active):
    active.prompt.publish(String(data="wave"))
    active.until(lambda: active.status.prompt == "wave", 10.0, "the new prompt")
    active.until(lambda: active.chunks[-1][1].prompt == "wave", 10.0, "a chunk for it")


def test_the_stream_ends_at_rest_and_holds_while_the_node_hangs(active, node):
    """SIGSTOP of the policy node: the streamer brakes by its trajectory and goes on to hold; later all goes on."""
    active.until_state("RUNNING")
    node.process.send_signal(signal.SIGSTOP)
    hung = time.time()
    try:
        time.sleep(active.robot.timing.timeout + STALL)
        rests = time.time()
        time.sleep(2 * STALL)
    finally:
        node.process.send_signal(signal.SIGCONT)
    after = [(t, p) for t, p in list(active.commands) if t > hung]
    held = np.array([p for t, p in after if rests <= t < rests + 2 * STALL])
    assert len(held) > 5 and np.ptp(held, axis=0).max() == 0.0
    heard = [Heard.of(t, m) for t, m in active.trajectories[-10:]]
    assert off_the_path(heard, [(t, p) for t, p in after if t < rests], STALL).max() < 2e-3
    joins = active.status.joins
    active.until(lambda: active.status.state == "RUNNING" and active.status.joins > joins, 30.0, "motion again")


def test_the_stream_ends_at_rest_when_the_node_is_killed(active, node):
    """kill -9 of the policy node: the streamer plays its trajectory to the end, at rest, then is gone."""
    active.until_state("RUNNING")
    node.process.kill()
    killed = time.time()
    node.process.wait()
    time.sleep(active.robot.timing.timeout + 0.6)
    after = [(t, p) for t, p in active.commands if t > killed]
    silent = time.time()
    time.sleep(2 * STALL)
    assert not [t for t, _ in active.commands if t > silent]
    assert len(after) > 3
    heard = [Heard.of(t, m) for t, m in active.trajectories[-10:]]
    assert off_the_path(heard, after, STALL).max() < 2e-3
    np.testing.assert_allclose(after[-1][1], heard[-1].at(np.inf)[0], atol=2e-3)  # to its end
    node.process.returncode = 0  # it was us
