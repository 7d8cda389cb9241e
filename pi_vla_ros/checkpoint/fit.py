# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint and a robot belong together."""

from __future__ import annotations

from pi_vla_ros.checkpoint.types import Checkpoint
from pi_vla_ros.robot import RobotConfig


def mismatches(checkpoint: Checkpoint, robot: RobotConfig) -> list[str]:
    """What keeps `checkpoint` from driving `robot`, one sentence each; empty where they fit."""
    found = []
    joints, slots = len(robot.joints), set(checkpoint.cameras)
    for what, dims, has in (
        ("state", checkpoint.state_dim, len(robot.state_entries)),
        ("action", checkpoint.action_dim, joints),
    ):
        if has > dims or (has < dims and not checkpoint.open_dims):
            found.append(f"{what}: the checkpoint has {dims} dimensions, the robot has {has} joints")
    robots = {checkpoint.rename.get(slot, slot) for slot in robot.cameras}
    if unknown := sorted(robots - slots):
        found.append(f"cameras: the checkpoint has no {', '.join(unknown)}; it has {', '.join(checkpoint.cameras)}")
    velocities = [j.name for j in robot.joints if j.action.kind == "velocity"]
    relative = checkpoint.relative.mask if checkpoint.relative else ()
    names = [j.name for j, is_relative in zip(robot.joints, relative, strict=False) if is_relative]
    if both := [name for name in names if name in velocities]:
        found.append(f"action: {', '.join(both)}: relative in the checkpoint, velocities in the robot file")
    theirs = checkpoint.action_names
    if theirs and len(theirs) == joints and set(theirs) == set(robot.joint_names) and list(theirs) != robot.joint_names:
        found.append(f"action: the checkpoint's order is {', '.join(theirs)}")
    return found


def hints(checkpoint: Checkpoint, robot: RobotConfig) -> list[str]:
    """What works, but a user should know of."""
    told = []
    slots = {checkpoint.rename.get(slot, slot) for slot in robot.cameras}
    masked = [slot for slot in checkpoint.cameras if slot not in slots and not slot.startswith("empty_camera_")]
    if masked:
        told.append(f"cameras: {', '.join(masked)} will be masked: the robot does not have them")
    theirs = checkpoint.action_names
    if theirs and set(theirs) != set(robot.joint_names):
        told.append(f"action: named {', '.join(theirs)} there, {', '.join(robot.joint_names)} here; the order decides")
    return told
