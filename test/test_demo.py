# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The demo from the command line to the report, as a user runs it; and how it fails."""

import json
import re
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from rosbags.rosbag2 import Reader

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]


def demo(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pi_vla_ros.cli.demo", *map(str, arguments)], capture_output=True, text=True, timeout=280
    )


def check_summary(folder, duration):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exit_reason"] == "finished" and summary["duration_s"] >= duration
    assert summary["ticks"] > 10 * duration and summary["inferences"] > 10
    assert summary["joins"]["count"] > 10
    assert summary["joins"]["position_step_max"] < 1e-6 and summary["joins"]["velocity_step_max"] < 1e-5
    assert set(summary["stage_ms"]) >= {"preprocess", "vision", "prefix", "expert", "postprocess"}
    for camera in summary["cameras"].values():
        assert camera["sent"] > 5 and camera["received"] / camera["sent"] >= 0.9  # 0.97 on a machine that is not busy
    assert any(t["to"] == "RUNNING" for t in summary["state_transitions"])
    assert summary["skew_ms"]["max"] <= 60
    return summary


@pytest.mark.slow
def test_demo(tmp_path):
    done = demo("--duration", 5, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "run"
    summary = check_summary(folder, 5)
    assert summary["commands"] > 100 and summary["command_interval_ms"]["p50"] == pytest.approx(1000 / 240, rel=0.1)
    report = (folder / "report.html").read_text()
    page, pictures = re.subn(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", report)
    assert pictures == 3 and "http" not in page  # a picture's own letters may spell anything
    for picture in ("cameras.png", "joints.png", "latency.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    with Reader(folder / "bag") as bag:
        counts = {c.topic: c.msgcount for c in bag.connections}
    assert counts["/joint_states"] > 500 and counts["/cameras/base/image_raw"] > 20
    assert counts["/commands"] > 100 and counts["/joint_trajectory"] > 10 and counts["/pi_vla_ros/status"] > 50
    assert counts["/pi_vla_ros/action_chunk"] > 10


@pytest.mark.slow
@pytest.mark.parametrize(("robot", "model"), [("aloha", "pi05"), ("droid", "pi0"), ("ur5e", "pi0"), ("so101", "pi05")])
def test_demo_of_every_robot(robot, model, tmp_path):
    # two cores have 0.1 s of work for a chunk from three cameras of 640 x 480
    done = demo("--duration", 12, "--robot", robot, "--model", model, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    check_summary(tmp_path / "run", 12)


@pytest.mark.slow
def test_a_node_that_dies_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    done = demo("--duration", 5, "--checkpoint", tmp_path / "empty", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "policy_node died" in done.stderr and "cannot configure" in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"].startswith("policy_node died")


@pytest.mark.slow
def test_a_camera_that_never_comes_is_named(tmp_path):
    done = demo("--duration", 3, "--faults", "drop:left_wrist_0_rgb:0-", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "no command of the policy arrived" in done.stderr and "left_wrist_0_rgb" in done.stderr


def test_bad_arguments():
    unknown = demo("--robot", "simm")
    assert unknown.returncode == 1 and "'simm' is not known; known: aloha" in unknown.stderr
    assert demo("--duration", 0).returncode == 2
