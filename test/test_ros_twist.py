# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A robot that is moved by twists of its end effector: the real node and streamer, real DDS around them."""

import time

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from ros_rig import ACTIVATE, CONFIGURE, STALL, PolicyProcess, Rig, start_ros

from pi_vla_ros.cli.make_checkpoint import make_checkpoint
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import AXES, load_robot
from pi_vla_ros.types import seconds

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def robot_file(tmp_path_factory):
    data = yaml.safe_load(package_file("config/robots/ur5e_servo.yaml").read_text())
    data["output"]["command_hz"] = 100
    data["timing"] |= {"max_age": 0.4, "timeout": 1.4}
    data["motion"] = {"margin": 0.08}
    path = tmp_path_factory.mktemp("robots") / "servo.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def rig(robot_file):
    start_ros()
    rig = Rig(load_robot(robot_file))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def run(rig, robot_file, tmp_path_factory):
    """Moves, loses its cameras, moves, is stopped, moves, is killed; the tests look at what was recorded."""
    folder = tmp_path_factory.mktemp("servo")
    checkpoint = make_checkpoint(folder / "tiny", tiny("pi05"), str(robot_file), seed=2)
    node = PolicyProcess(
        folder / "log", robot=robot_file, checkpoint=checkpoint, prompt="wave", cpu_threads=1, noise_scale=0.1,
        noise_seed=0, num_inference_steps=2,
    )  # fmt: skip
    marks = {}
    try:
        assert rig.change_state(CONFIGURE), node.said()
        # discovery takes a while on a busy machine, and what is sent before is not heard
        rig.until(lambda: rig.count_publishers(rig.robot.twist.topic), 30.0, "the streamer's publisher")
        time.sleep(STALL)
        assert rig.change_state(ACTIVATE)
        rig.until_state("RUNNING")
        rig.until(lambda: rig.status.joins > 20, 60.0, "20 joins")
        rig.cameras_on = False
        rig.until_state("HOLDING")
        time.sleep(STALL)
        marks["held from"] = time.time()
        rig.until_ticks(12)
        marks["held until"] = time.time()
        rig.cameras_on = True
        rig.until(lambda: rig.status.state == "RUNNING" and _moves(rig), 30.0, "motion")
        assert rig.switch("estop", True).success
        marks["estop answered"] = time.time()
        rig.until_ticks(20)
        marks["estop released"] = time.time()
        rig.switch("estop", False)
        rig.until_state("STOPPED")
        rig.switch("enable", True)
        rig.until(lambda: rig.status.state == "RUNNING" and _moves(rig), 30.0, "motion")
        node.process.kill()
        marks["killed"] = time.time()
        node.process.wait()
        time.sleep(rig.robot.timing.timeout + 2 * STALL)
        marks["after the end"] = time.time()
        time.sleep(2 * STALL)
    finally:
        if node.process.poll() is None:
            node.end()
    assert "Traceback" not in node.said(), node.said()
    return marks


def _values(message) -> np.ndarray:
    """(6,) in the order of AXES."""
    return np.array([getattr(getattr(message.twist, part), letter) for part, letter in (a.split(".") for a in AXES)])


def _moves(rig) -> bool:
    return bool(rig.twists) and np.abs(_values(rig.twists[-1][1])).max() > 0.02


def _limits(rig, what) -> np.ndarray:
    return np.array([next(getattr(j, what) for j in rig.robot.joints if j.axis == axis) for axis in AXES])


def test_the_twist_begins_at_rest_and_moves(rig, run):
    sent = np.array([_values(m) for _, m in rig.twists])
    assert (sent[0] == 0).all() and np.isfinite(sent).all()
    assert (np.abs(sent).max(axis=0) > 0.02).all()
    assert {m.header.frame_id for _, m in rig.twists} == {"base_link"}


def test_speed_and_acceleration_limits_hold(rig, run):
    """By the stamps: the times for which the twists were computed."""
    stamps = np.array([seconds(m.header.stamp) for _, m in rig.twists])
    sent = np.array([_values(m) for _, m in rig.twists])
    assert (np.abs(sent) <= _limits(rig, "velocity") * (1 + 1e-6)).all()
    change, after = np.abs(np.diff(sent, axis=0)), np.diff(stamps)[:, None]
    assert (change <= _limits(rig, "acceleration") * after * 1.001 + 1e-6).all()


def test_it_is_exactly_zero_after_the_cameras_stop(rig, run):
    held = np.array([_values(m) for t, m in rig.twists if run["held from"] <= t <= run["held until"]])
    assert len(held) > 10 and (held == 0).all()


def test_it_is_exactly_zero_after_an_emergency_stop_then_silent(rig, run):
    silent = run["estop answered"] + STALL
    assert run["estop released"] > silent + 0.2
    assert not [t for t, _ in rig.twists if silent < t < run["estop released"]]
    assert (_values([m for t, m in rig.twists if t <= silent][-1]) == 0).all()


def test_the_streamer_ends_the_motion_when_the_node_is_killed_then_is_gone(rig, run):
    assert rig.twists[-1][0] < run["after the end"]
    after = np.array([_values(m) for t, m in rig.twists if t > run["killed"]])
    assert np.abs(after[0]).max() > 0.005  # it was moving
    assert (after[-5:] == 0).all()  # said more than once


def test_joints_that_are_no_axes_go_to_commands(rig, run):
    sent = np.array([p for _, p in rig.commands])
    assert sent.shape[1] == 1 and (sent >= 0).all() and (sent <= 0.8).all() and np.ptp(sent) > 1e-3


def test_action_chunks_name_the_axes(rig, run):
    chunk = rig.chunks[-1][1]
    assert chunk.names == rig.robot.joint_names and len(chunk.actions) == chunk.horizon * 7
