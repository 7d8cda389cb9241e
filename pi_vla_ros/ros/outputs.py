# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where plans go: a dense JointTrajectory, the streamer, or both."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from trajectory_msgs.msg import JointTrajectory

from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.planner import Plan
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.ros.messages import joint_trajectory
from pi_vla_ros.ros.qos import COMMANDS
from pi_vla_ros.ros.stream import Stream, StreamSpec

ANY_TIME = 2**62  # tick: to rest at the measured state is right whenever it is heard
UNDERWAY = 2e-3  # s that a trajectory takes to its controller


class Outputs:
    """Silent until `open`. Made before CUDA starts, for the streamer's sake."""

    def __init__(self, node: LifecycleNode, robot: RobotConfig):
        self._node, self._names = node, robot.joint_names
        self._publisher, self.stream, self._open = None, None, False
        if robot.streams:
            self.stream = Stream(_spec(node, robot))
        if robot.sends_trajectories:
            self._publisher = node.create_publisher(JointTrajectory, "joint_trajectory", COMMANDS)
        # a trajectory is sent when the streamer has taken it, at its next tick, and must arrive before the plan's join
        self._underway = UNDERWAY + (1 / robot.output.command_hz if robot.streams else 0.0)

    def open(self) -> None:
        self._open = True
        if self.stream:
            self.stream.play(True)

    def silence(self) -> None:
        """Publish nothing from here on."""
        self._open = False
        if self.stream:
            self.stream.play(False)

    def send(self, plan: Plan) -> bool:
        """False when the plan came too late to take over without a step."""
        if not self._open:
            return False
        moves = bool(plan.trajectory.velocities.any())
        # a controller holds by itself; a trajectory that only rests would end in its past and be rejected
        message = joint_trajectory(plan.trajectory, self._names) if moves and self._publisher else None
        if moves and self._left(plan) <= (self._underway if message else 0.0):
            return False
        if self.stream and not self.stream.offer(plan.trajectory, plan.join if moves else ANY_TIME):
            return False
        if message:
            self._publisher.publish(message)
        return True

    def _left(self, plan: Plan) -> float:
        """s until the plan takes over. Asked for behind the making of the message, which takes its time too."""
        return plan.join * plan.trajectory.step - self._node.get_clock().now().nanoseconds * 1e-9

    def close(self) -> None:
        self.silence()
        if self.stream:
            self.stream.close()
        if self._publisher:
            self._node.destroy_publisher(self._publisher)


def _spec(node: LifecycleNode, robot: RobotConfig) -> StreamSpec:
    return StreamSpec(
        node=f"{node.get_name()}_streamer",
        names=tuple(robot.joint_names),
        topic=node.resolve_topic_name("commands"),
        hz=robot.output.command_hz,
        limits=Limits.of(robot).kept(1 / robot.motion.plan_hz),
        message=robot.output.message,
        axes={column: joint.axis for column, joint in enumerate(robot.joints) if joint.axis},
        twist_topic=node.resolve_topic_name(robot.twist.topic) if robot.twist else "",
        frame=robot.twist.frame if robot.twist else "",
        cpu=robot.output.cpu,
        sim_time=node.get_parameter("use_sim_time").value,
    )
