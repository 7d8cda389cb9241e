# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The real node under a recording that is played twice: the clock jumps back, the node goes on."""

import json
import os
import subprocess
import sys

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

import numpy as np
from replay_rig import BEGIN, messages, write_bag

from pi_vla_ros.replay.untracked import without_tracking
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import load_robot
from pi_vla_ros.ros.dds import shared_memory_profile
from pi_vla_ros.schema import ConfigError

pytestmark = [pytest.mark.ros, pytest.mark.timeout(200)]


@pytest.fixture
def environment():
    """A domain of its own on this machine."""
    found = os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(1 + os.getpid() % 99)}
    return found | shared_memory_profile(found)


@pytest.fixture
def node(environment):
    """(module, log, arguments, parameters) -> its process; none outlives the test."""
    started = []

    def start(module, log, *arguments, **parameters):
        given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", f"pi_vla_ros.ros.{module}", "--ros-args", *arguments, *given]
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(20)


def policy_node(node, robot, checkpoint, log):
    """As replay.launch.py starts it."""
    remaps = ["-r", "joint_trajectory:=replay/joint_trajectory", "-r", "commands:=replay/commands"]
    options = {"cpu_threads": 1, "num_inference_steps": 1, "noise_scale": 0.0, "target": "cpu"}
    return node(
        "policy_node", log, *remaps,
        robot=robot, checkpoint=checkpoint, use_sim_time="true", autostart="true", **options,
    )  # fmt: skip


def publishers(environment, there, topics) -> list[int]:
    """How many publish on `topics` once somebody publishes on all of `there`; asked in a process of its own: this one
    may be in another domain."""
    code = f"""
import time, rclpy
rclpy.init()
node = rclpy.create_node("asks")
deadline = time.monotonic() + 30
while not all(node.count_publishers(topic) for topic in {there!r}) and time.monotonic() < deadline:
    time.sleep(0.1)
print([node.count_publishers(topic) for topic in {topics!r}])
rclpy.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


LISTENER = """
import json, sys, time, rclpy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from pi_vla_ros.ros import qos
from pi_vla_ros.types import seconds
rclpy.init()
node, clock, states = rclpy.create_node("listener"), [], []
node.create_subscription(Clock, "/clock", lambda m: clock.append(seconds(m.clock)), 1000)
note = lambda m: states.append((time.monotonic(), seconds(m.header.stamp)))
node.create_subscription(JointState, "joint_states", note, qos.JOINT_STATES)
for slot in ("base", "left_wrist", "right_wrist"):
    node.create_subscription(Image, f"cameras/{slot}/image_raw", lambda m: None, qos.IMAGES)
while not states or time.monotonic() - states[-1][0] < 2.0:
    rclpy.spin_once(node, timeout_sec=0.1)
print(json.dumps({"clock": clock, "states": states}))
rclpy.shutdown()
"""


@pytest.mark.slow
def test_start_duration_and_rate(sim_robot, tmp_path, environment, node):
    bag = write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 4.0, "joint_trajectory"))
    listener = subprocess.Popen([sys.executable, "-c", LISTENER], env=environment, stdout=subprocess.PIPE, text=True)
    log, part = tmp_path / "log", {"start": 1.0, "duration": 2.0, "rate": 0.5}
    played = node("bag_player", log, robot="sim", bag=bag, **part)
    try:
        assert played.wait(60) == 0, log.read_text()
        heard = json.loads(listener.communicate(timeout=30)[0])
    finally:
        listener.kill()
    arrived, stamps = zip(*heard["states"], strict=True)
    begin = BEGIN * 1e-9
    assert min(stamps) >= begin + 0.99 and max(stamps) < begin + 3.0 and len(stamps) > 80  # 50 a second, best effort
    assert arrived[-1] - arrived[0] >= 0.9 * (stamps[-1] - stamps[0]) / 0.5  # half as fast as recorded
    assert (np.diff(heard["clock"]) >= 0).all()


@pytest.mark.slow
def test_somebody_else_plays(sim_robot, tiny_checkpoint, tmp_path, node):
    bag = write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 4.0, "joint_trajectory"))
    robot, report = without_tracking("sim"), tmp_path / "online.json"
    policy_node(node, robot, tiny_checkpoint(), tmp_path / "policy.log")
    given = {"robot": robot, "bag": bag}
    listens = node("bag_player", tmp_path / "listens", **given, play="false", report=report)
    plays = node("bag_player", tmp_path / "plays", "-r", "__node:=somebody", **given)
    assert plays.wait(90) == 0, (tmp_path / "plays").read_text() + (tmp_path / "policy.log").read_text()
    assert listens.wait(30) == 0, (tmp_path / "listens").read_text() + (tmp_path / "policy.log").read_text()
    said = (tmp_path / "listens").read_text()
    assert f"ros2 bag play {bag} --clock 250 --topics " in said and "/joint_trajectory" not in said
    assert json.loads(report.read_text())["ticks"] > 60


@pytest.mark.slow
def test_the_live_node_under_a_recording(sim_robot, tiny_checkpoint, tmp_path, environment, node):
    bag = write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 4.0, "joint_trajectory"))
    robot, report, log = without_tracking("sim"), tmp_path / "online.html", tmp_path / "policy.log"
    policy = policy_node(node, robot, tiny_checkpoint(), log)
    played = node("bag_player", tmp_path / "player.log", robot=robot, bag=bag, loops=2, report=report)
    assert played.wait(120) == 0, (tmp_path / "player.log").read_text() + log.read_text()
    assert policy.poll() is None, log.read_text()
    replayed = ["/replay/joint_trajectory", "/replay/commands"]
    topics = [*replayed, "/joint_trajectory", "/commands"]
    assert publishers(environment, replayed, topics) == [1, 1, 0, 0]  # no robot would hear it
    summary = json.loads(report.with_suffix(".json").read_text())
    assert summary["ticks"] > 120 and summary["inferences"] > 40, log.read_text()
    assert summary["clock_jumps"] == 1 <= summary["drops"]["clock_jump"]  # one more if it began before the clock did
    assert summary["tick_interval_ms"]["p50"] == pytest.approx(1000 / 30, rel=0.3)
    assert summary["inference_ms"]["p99"] > 0 and summary["states"].get("RUNNING", 0) > 0.4, summary
    assert summary["camera_age_ms"]["base_0_rgb"]["p50"] < 100 and summary["commands_sent"] > 200
    assert summary["command_interval_ms"]["p50"] == pytest.approx(1000 / 240, rel=0.3)
    page = report.read_text()
    assert "Jitter of the stream" in page and "data:image/png;base64," in page and "://" not in page
    assert "- expert" in page and "clock jumps" in page


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bag": "/nowhere"}, "/nowhere"),
        ({"bag": "bag", "rate": "0.0"}, "rate and clock_hz: must be positive"),
        ({"bag": "bag", "patience": "1.0"}, "nobody subscribes to /joint_states, /cameras/base"),
        ({"bag": "bag", "patience": "1.0", "play": "false"}, "no tick of the policy node in 1.0 s"),
    ],
)
def test_what_cannot_be_played(parameters, words, sim_robot, tmp_path, node):
    write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 0.5, "joint_trajectory"))
    given = parameters | {"bag": str(tmp_path / parameters["bag"])}
    log = tmp_path / "log"
    assert node("bag_player", log, robot="sim", **given).wait(60) == 1
    assert words in log.read_text() and "Traceback" not in log.read_text()


def test_the_copy_of_the_robot_has_no_tracking(tmp_path):
    copy = without_tracking("sim")
    assert all(joint.tracking is None for joint in load_robot(copy).joints)
    data = yaml.safe_load(package_file("config/robots/sim.yaml").read_text())
    assert [j["name"] for j in yaml.safe_load(copy.read_text())["joints"]] == [j["name"] for j in data["joints"]]
    with pytest.raises(ConfigError, match="'simm' is not known"):
        without_tracking("simm")


def test_launch_file():
    pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not installed")
    from test_launch import parameters, started

    with pytest.raises(RuntimeError, match="bag:= is missing"):
        started("replay")
    nodes, context = started("replay", robot="sim", bag="/data/episode", checkpoint="/data/c", loops="3")
    policy, player = nodes
    assert parameters(policy, context)["use_sim_time"] is True
    found = parameters(player, context)
    assert found["bag"] == "/data/episode" and found["loops"] == 3 and found["robot"].endswith("sim.yaml")
    assert found["play"] is True and found["rate"] == 1.0
