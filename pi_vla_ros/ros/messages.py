# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Values of the package <-> ROS messages."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from pi_vla_ros.msg import ActionChunk as ActionChunkMessage
from pi_vla_ros.types import ActionChunk, Trajectory

NANO = 1_000_000_000


def time_message(time: float) -> Time:
    nanoseconds = round(time * NANO)
    return Time(sec=nanoseconds // NANO, nanosec=nanoseconds % NANO)


def joint_trajectory(trajectory: Trajectory, names: list[str]) -> JointTrajectory:
    """A dense trajectory as a joint_trajectory_controller accepts it: placed in time by its stamp, times strictly
    increasing, velocities included (cubic interpolation), the last velocity zero."""
    message = JointTrajectory(joint_names=names)
    message.header.stamp = time_message(trajectory.start)
    positions, velocities = trajectory.positions.tolist(), trajectory.velocities.tolist()
    for k, (p, v) in enumerate(zip(positions, velocities, strict=True)):
        after = round(k * trajectory.step * NANO)
        message.points.append(
            JointTrajectoryPoint(
                positions=p, velocities=v, time_from_start=Duration(sec=after // NANO, nanosec=after % NANO)
            )
        )
    return message


def action_chunk(chunk: ActionChunk, names: list[str], prompt: str, sequence: int) -> ActionChunkMessage:
    message = ActionChunkMessage(names=names, dt=chunk.dt, horizon=len(chunk.actions), prompt=prompt, sequence=sequence)
    message.header.stamp = time_message(chunk.stamp)
    message.actions = chunk.actions.ravel().tolist()
    return message
