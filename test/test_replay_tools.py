# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The record line, and two replays side by side."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from pi_vla_ros.cli import compare_reports, record
from pi_vla_ros.replay.compare import compare_replays, paired
from pi_vla_ros.replay.question import Question
from pi_vla_ros.replay.recording import qos_overrides, record_command, topics
from pi_vla_ros.robot import Camera, Replay, load_robot


def test_the_line_has_all_that_a_replay_reads(sim_robot, tmp_path):
    command = record_command(sim_robot, tmp_path / "a b", tmp_path / "qos.yaml", "jazzy", "left")
    asked = command[command.index("--topics") + 1 :]
    for topic in (
        "/left/cameras/base/image_raw",
        "/left/joint_states",
        "/left/joint_trajectory",
        "/left/pi_vla_ros/prompt",
    ):
        assert topic in asked
    assert command[command.index("--storage-preset-profile") + 1] == "zstd_fast"
    assert "--topics" not in record_command(sim_robot, tmp_path, tmp_path, "humble")


def test_compressed_cameras_and_remapped_commands(sim_robot, tmp_path):
    cameras = {slot: Camera(f"/{slot}/compressed", "compressed") for slot in sim_robot.cameras}
    robot = dataclasses.replace(sim_robot, cameras=cameras, replay=Replay(topic="/arm/goal"))
    assert "zstd_fast" not in record_command(robot, tmp_path, tmp_path, "")
    assert "/arm/goal" in topics(robot) and "/commands" not in topics(robot)
    profiles = yaml.safe_load(qos_overrides(robot))
    assert profiles["/base_0_rgb/compressed"]["reliability"] == "best_effort"
    assert profiles["/pi_vla_ros/prompt"]["durability"] == "transient_local"
    assert "/arm/goal" not in profiles


def test_a_robot_that_is_moved_by_twists(tmp_path):
    robot = load_robot("ur5e_servo")
    assert "/servo_node/delta_twist_cmds" in topics(robot)
    with pytest.raises(ValueError, match=r"'ur5e_servo' is moved by twists .* replay\.launch\.py"):
        Question(robot, str(tmp_path))


def test_record_prints_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert record.main(["--robot", "sim", "--out", str(tmp_path / "e")]) == 0
    printed = capsys.readouterr().out
    assert f"ros2 bag record --output {tmp_path / 'e'}" in printed and (tmp_path / "e-qos.yaml").is_file()
    monkeypatch.setenv("PATH", str(tmp_path))
    for out, words in (("e", "ros2 is not there"), (".", "exists already")):
        with pytest.raises(SystemExit) as ended:
            record.main(["--robot", "sim", "--out", str(tmp_path / out), "--run"])
        assert ended.value.code == 2 and words in capsys.readouterr().err


def test_the_paired_test():
    random = np.random.default_rng(0)
    a = random.uniform(1, 10, 20)  # recordings differ much more than checkpoints
    better = paired(a, a - random.uniform(0.01, 0.1, 20))
    assert better["better"] == "b" and better["p"] < 1e-4 and better["difference"] < 0
    assert paired(a, a + random.normal(0, 0.1, 20))["better"] == ""
    assert paired(a, a) == {**paired(a, a), "p": 1.0, "better": "", "difference": 0.0}
    assert paired(a[:5], a[:5] - 1)["p"] is None
    assert paired(np.array([np.nan]), np.array([1.0]))["pairs"] == 0


def folder(path, checkpoint, errors, **changes):
    """What replay would write, as far as it is compared."""
    path.mkdir()
    episodes = []
    for k, error in enumerate(errors):
        mean = {"mean": error}
        episode = {
            "recording": f"episode_{k}",
            "commands": "joint_states",
            "duration_s": 10.0,
            "assumed_delay_ms": 33.0,
            "errors": {"normalised_mae": mean, "normalised_mse": mean, "joints": {"joint1": {"mae": mean}}},
            "change_between_predictions": {"joint1": None},
            "joins": {"position_step_unstitched": {}},
            "jerk": {"joint1": {"rms": 1.0, "max": 2.0}},
            "clips": {"position": k},
            "state_s": {"RUNNING": 9.0, "HOLDING": 1.0},
        }
        episodes.append(episode | changes)
    summary = {"robot": "sim", "dt_s": 0.1, "checkpoint": checkpoint, "episodes": episodes}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "timing.json").write_text(json.dumps({"episode_0": {"total_ms": {"p50": 1.0, "p99": 2.0}}}))
    return path


def test_two_replays(tmp_path, capsys):
    a, b = folder(tmp_path / "a", "old", np.arange(1.0, 9)), folder(tmp_path / "b", "new", np.arange(0.5, 8))
    found = compare_replays(a, b)
    assert found["metrics"]["error, normalised"]["better"] == "b" and found["metrics"]["jerk, rms"]["better"] == ""
    assert found["metrics"]["latency p50, ms (measured)"]["pairs"] == 1
    assert compare_reports.main([str(a), str(b), "--html", str(tmp_path / "c.html")]) == 0
    printed = capsys.readouterr().out
    assert "A: old" in printed and "over 8 recordings" in printed
    assert "error, joint1" in (tmp_path / "c.html").read_text()
    assert compare_reports.main([str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_what_cannot_be_compared(tmp_path, capsys):
    a = folder(tmp_path / "a", "old", [1.0])
    for other, words in (
        (tmp_path / "none", "give the folder that replay wrote"),
        (folder(tmp_path / "b", "new", [1.0], duration_s=5.0), "episode_0: duration_s is 10.0"),
        (folder(tmp_path / "c", "new", [1.0], recording="another"), "no recording is in both"),
    ):
        with pytest.raises(SystemExit) as ended:
            compare_reports.main([str(a), str(other)])
        assert ended.value.code == 2 and words in capsys.readouterr().err
