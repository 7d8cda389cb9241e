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

from replay_rig import messages, write_bag

from pi_vla_ros.replay.online import without_tracking
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


def node(module, log, environment, *arguments, **parameters):
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", module, "--ros-args", *arguments, *given]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def test_the_live_node_under_a_recording(sim_robot, tiny_checkpoint, tmp_path, environment):
    bag = write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 4.0, "joint_trajectory"))
    robot, report, log = without_tracking("sim"), tmp_path / "online.json", tmp_path / "policy.log"
    remaps = ["-r", "joint_trajectory:=replay/joint_trajectory", "-r", "commands:=replay/commands"]
    options = {"cpu_threads": 1, "num_inference_steps": 1, "noise_scale": 0.0, "target": "cpu"}
    policy = node(
        "pi_vla_ros.ros.policy_node", log, environment, *remaps,
        robot=robot, checkpoint=tiny_checkpoint(), use_sim_time="true", autostart="true", **options,
    )  # fmt: skip
    try:
        played = node(
            "pi_vla_ros.ros.bag_player",
            tmp_path / "player.log",
            environment,
            robot=robot,
            bag=bag,
            loops=2,
            report=report,
        )
        assert played.wait(120) == 0, (tmp_path / "player.log").read_text() + log.read_text()
        assert policy.poll() is None, log.read_text()
    finally:
        policy.terminate()
        policy.wait(20)
    summary = json.loads(report.read_text())
    assert summary["loops"] == 2 and summary["ticks"] > 120 and summary["inferences"] > 40, log.read_text()
    assert summary["inference_ms"]["p99"] > 0 and summary["states"].get("RUNNING", 0) > 0.4, summary
    assert summary["camera_age_ms"]["base_0_rgb"]["p50"] < 100 and summary["commands_sent"] > 200
    assert summary["command_interval_ms"]["p50"] == pytest.approx(1000 / 240, rel=0.3)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bag": "/nowhere"}, "/nowhere"),
        ({"bag": "bag", "rate": "0.0"}, "rate and clock_hz: must be positive"),
        ({"bag": "bag", "patience": "1.0"}, "nobody subscribes to /joint_states, /cameras/base"),
    ],
)
def test_what_cannot_be_played(parameters, words, sim_robot, tmp_path, environment):
    write_bag(tmp_path / "bag", messages(sim_robot.joint_names, 0.5, "joint_trajectory"))
    given = parameters | {"bag": str(tmp_path / parameters["bag"])}
    log = tmp_path / "log"
    assert node("pi_vla_ros.ros.bag_player", log, environment, robot="sim", **given).wait(60) == 1
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
