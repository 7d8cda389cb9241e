# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A robot without tracking limits: a recorded arm does not follow commands, and the guard would stop the motion.

Imported by the launch file: needs neither scipy nor torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import yaml

from pi_vla_ros.robot import RobotConfig, robot_file
from pi_vla_ros.schema import read_yaml


def untracked(robot: RobotConfig) -> RobotConfig:
    return dataclasses.replace(robot, joints=tuple(dataclasses.replace(j, tracking=None) for j in robot.joints))


def without_tracking(robot: str) -> Path:
    """A copy of the robot's file, for the node. Raises ConfigError."""
    path = robot_file(robot)
    data = read_yaml(path)
    if isinstance(data.get("urdf"), str) and data["urdf"]:
        data["urdf"] = str((path.parent / data["urdf"]).resolve())
    for joint in data.get("joints") or ():
        if isinstance(joint, dict):
            joint.pop("tracking", None)
    copy = Path(tempfile.mkdtemp(prefix="pi_vla_ros-")) / f"{path.stem}.yaml"
    copy.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return copy
