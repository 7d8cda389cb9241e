# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The `ros2 bag` lines: to record what a replay of a robot needs, and to play it to the live node."""

from __future__ import annotations

from pathlib import Path

import yaml

from pi_vla_ros.replay.bags import resolve
from pi_vla_ros.robot import RobotConfig

CACHE = 500_000_000  # bytes: three raw cameras write 80 MB a second, and a disk pauses


def record_command(robot: RobotConfig, out: Path, qos: Path, distro: str, namespace: str = "") -> list[str]:
    """The words of the command. qos: file with `qos_overrides`; distro: $ROS_DISTRO, empty for a current one."""
    command = ["ros2", "bag", "record", "--output", str(out), "--storage", "mcap"]
    if any(camera.transport == "raw" for camera in robot.cameras.values()):
        command += ["--storage-preset-profile", "zstd_fast"]
    command += ["--max-cache-size", str(CACHE), "--qos-profile-overrides-path", str(qos)]
    return [*command, *([] if distro == "humble" else ["--topics"]), *topics(robot, namespace)]


def play_command(bag: str, topics: list[str], rate: float, start: float, duration: float) -> list[str]:
    """The words of a `ros2 bag play` for the live node: its inputs only, the clock fast enough for its timer."""
    command = ["ros2", "bag", "play", bag, "--clock", "250", "--topics", *topics, "--rate", f"{rate:g}"]
    command += ["--start-offset", f"{start:g}"] if start else []
    return [*command, *(["--playback-duration", f"{duration:g}"] if duration else [])]


def topics(robot: RobotConfig, namespace: str = "") -> list[str]:
    """Everything that a replay reads, and what tells how the live node did."""
    wanted = [camera.topic for camera in robot.cameras.values()] + ["joint_states"]
    wanted += [robot.replay.topic] if robot.replay.topic else ["joint_trajectory", "commands"]
    wanted += [robot.twist.topic] if robot.twist else []
    wanted += ["pi_vla_ros/prompt", "pi_vla_ros/status", "pi_vla_ros/action_chunk"]
    return list(dict.fromkeys(resolve(topic, namespace) for topic in wanted))


def qos_overrides(robot: RobotConfig, namespace: str = "") -> str:
    """YAML. Commands are not in it: the recorder adapts to their publisher, and none may be lost."""
    sensor = {"reliability": "best_effort", "durability": "volatile", "history": "keep_last"}
    latched = {"reliability": "reliable", "durability": "transient_local", "history": "keep_last", "depth": 1}
    profiles = {camera.topic: sensor | {"depth": 10} for camera in robot.cameras.values()}
    profiles |= {"joint_states": sensor | {"depth": 500}, "pi_vla_ros/prompt": latched}
    return yaml.safe_dump({resolve(t, namespace): p for t, p in profiles.items()}, sort_keys=False)
