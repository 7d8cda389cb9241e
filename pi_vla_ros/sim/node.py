# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated robot as a ROS 2 node: images and joint_states out, trajectories or commands in.

    python -m pi_vla_ros.sim.node --ros-args -p robot:=sim -p faults:="drop:left_wrist_0_rgb:5-8"

Two threads: the control loop, which keeps time, and the cameras, which draw (MuJoCo lets go of the
interpreter while it does). There is no executor: the control loop takes commands at the end of each
cycle, as a controller manager does. An rclpy executor in a third thread took a quarter of a core
for 240 commands a second and made joint states late.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path

import numpy as np
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from pi_vla_ros.ros.commands import TYPES, joint_positions
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.schema import ConfigError
from pi_vla_ros.sim import messages
from pi_vla_ros.sim.arm import SimArm
from pi_vla_ros.sim.cameras import Cameras
from pi_vla_ros.sim.cdr import read_trajectory
from pi_vla_ros.sim.controller import ForwardCommandController, JointTrajectoryController
from pi_vla_ros.sim.faults import FaultError, Faults
from pi_vla_ros.sim.gl import RenderingUnavailable, choose_backend
from pi_vla_ros.sim.realtime import RealTime, Snapshot
from pi_vla_ros.sim.settings import declare


class SimRobot(Node):
    """The node `sim_robot`. `begin` starts its threads, `end` stops them; it is not to be spun."""

    def __init__(self):
        super().__init__("sim_robot", start_parameter_services=False)  # nobody spins to answer them
        self._settings = settings = declare(self)
        robot, names = settings.robot, settings.robot.joint_names
        self.failed = threading.Event()  # a thread died
        self._stop = threading.Event()
        self._faults = Faults(settings.faults)
        # Real robots do not report joints in the policy's order: who reads must go by name.
        self._scrambled = np.random.default_rng(7).permutation(len(names))

        self._arm = SimArm(robot, settings.seed, settings.step)
        home = self._arm.positions()
        self._trajectories = JointTrajectoryController(names, home)
        points = robot.output.message == "joint_trajectory"
        self._commands = (JointTrajectoryController if points else ForwardCommandController)(names, home)
        leader = self._trajectories if settings.follows == "trajectory" else self._commands

        self._sent: dict[str, list[float]] = {slot: [] for slot in robot.cameras}
        self._states: deque[float] = deque(maxlen=100_000)  # s, monotonic: when each was sent
        self._images = {slot: self._image_publisher(camera) for slot, camera in robot.cameras.items()}
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)

        def follow(controller):
            return functools.partial(self._on_trajectory, controller)

        self._inputs = (
            self.create_subscription(JointTrajectory, "joint_trajectory", follow(self._trajectories), 10, raw=True),
            self.create_subscription(
                TYPES[robot.output.message],
                "commands",
                follow(self._commands) if points else self._on_commands,
                10,
                raw=points,
            ),
        )
        self._robot = RealTime(self._arm, leader, 1 / settings.joint_state_hz, self._now, self._send_state, self._take)
        self._cameras = Cameras(
            self._arm.scene,
            settings.camera_hz,
            settings.size,
            lambda: self._robot.newest,
            self._send_image,
            self._faults,
            settings.seed,
        )
        self._threads = [threading.Thread(target=self._guarded, args=(t.run,)) for t in (self._robot, self._cameras)]

    def begin(self) -> None:
        control, cameras = self._threads
        cameras.start()
        while not (self._cameras.ready.wait(0.1) or self.failed.is_set()):
            pass  # opening OpenGL would hold up the control loop
        control.start()
        width, height = self._settings.size
        rates = ", ".join(f"{slot} {hz:g} Hz" for slot, hz in self._settings.camera_hz.items())
        self.get_logger().info(
            f"robot '{self._settings.robot.name}', follows {self._settings.follows}; joint states "
            f"{self._settings.joint_state_hz:g} Hz; {rates} at {width}x{height}"
        )

    def end(self) -> None:
        """Stop the threads and write the report."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=5)
        if self._settings.report:
            path = Path(self._settings.report)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(self.report(), indent=1), encoding="utf-8")
            path.with_suffix(".part").replace(path)  # readers see all of it or nothing

    def report(self) -> dict:
        """What was sent, what was followed, how well."""
        settings, robot = self._settings, self._settings.robot
        skipped = self._cameras.skipped
        return {
            "robot": robot.name,
            "seed": settings.seed,
            "seconds": self._robot.newest.elapsed,
            "cameras": {
                slot: {
                    "topic": self._images[slot].topic_name,
                    "hz": settings.camera_hz[slot],
                    "skipped": skipped[slot],
                    "sent": stamps,
                }
                for slot, stamps in self._sent.items()
            },
            "joint_states": {
                "sent": len(self._states),
                "missed": self._robot.missed,
                "interval_ms": _percentiles(np.diff(self._states)),
                "late_ms": _percentiles(np.array(self._robot.late)),
            },
            "follows": settings.follows,
            "trajectory": self._trajectories.tally.report(),
            "commands": self._commands.tally.report(),
            "refused_targets": self._arm.refused,
            "tracking_error": dict(zip(robot.joint_names, self._robot.worst_error.tolist(), strict=True)),
        }

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _image_publisher(self, camera):
        kind = CompressedImage if camera.transport == "compressed" else Image
        return self.create_publisher(kind, camera.topic, qos_profile_sensor_data)

    def _send_state(self, state: Snapshot) -> None:
        if self._faults.states_stopped(state.elapsed):
            return
        names = self._settings.robot.joint_names
        broken = self._faults.nan_joints(state.elapsed, names)
        missing = self._faults.missing_joints(state.elapsed, names)
        order = [i for i in self._scrambled if names[i] not in missing]
        positions = state.positions[order]
        listed = [names[i] for i in order]
        positions[[name in broken for name in listed]] = np.nan
        self._joint_states.publish(messages.to_joint_state(state.stamp, listed, positions, state.velocities[order]))
        self._states.append(time.monotonic())

    def _send_image(self, slot: str, stamp: float, pixels: np.ndarray) -> None:
        compressed = self._settings.robot.cameras[slot].transport == "compressed"
        make = messages.to_jpeg if compressed else messages.to_image
        self._images[slot].publish(make(stamp, f"{slot}_optical_frame", pixels))
        if self._settings.report:  # without one, nobody reads them and a long run would pile them up
            self._sent[slot].append(stamp)

    def _take(self) -> None:
        """Everything that has arrived."""
        for subscription in self._inputs:
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
                    subscription.callback(taken[0])

    def _on_trajectory(self, controller: JointTrajectoryController, message: bytes) -> None:
        if not controller.accept(read_trajectory(message), self._now()):
            reason = controller.tally.latest
            self.get_logger().warning(f"trajectory refused: {reason}", throttle_duration_sec=1.0)

    def _on_commands(self, message) -> None:
        self._commands.accept(joint_positions(message))

    def _guarded(self, run) -> None:
        """A thread that dies takes the node with it."""
        try:
            run(self._stop)
        except Exception:
            self.get_logger().fatal(f"stopped:\n{traceback.format_exc()}")
            self.failed.set()


def _percentiles(seconds: np.ndarray) -> dict[str, float]:
    if not len(seconds):
        return {}
    p50, p99, most = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50": float(p50), "p99": float(p99), "max": float(most)}


def main(args: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. 0: ended as asked; 1: a thread died; 2: could not start."""
    use_shared_memory_profile()
    # Our own handlers: rclpy's invalidate the context under threads that are publishing.
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        choose_backend()
        node = SimRobot()
    except (ConfigError, FaultError, RenderingUnavailable, ParameterException) as error:
        print(f"sim_robot: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    node.begin()
    while not asked.is_set() and not node.failed.is_set():
        asked.wait(0.2)
    node.end()
    node.destroy_node()
    rclpy.try_shutdown()
    return 1 if node.failed.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
