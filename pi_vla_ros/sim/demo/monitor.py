# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Watches a run: every message of interest is counted, kept for the report, and recorded into a bag."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from pi_vla_ros.control.pacer import Intervals
from pi_vla_ros.msg import ActionChunk, InferenceStatus
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.ros import qos
from pi_vla_ros.ros.commands import TYPES, joint_positions
from pi_vla_ros.sim.demo.recorder import Recorder
from pi_vla_ros.types import seconds

PICTURES = 400  # frames kept per camera for the report, spread over the run by dropping every other one


class Monitor(Node):
    """Subscribes serialised, unpacks after the run: watching must not cost what is watched its cores."""

    def __init__(self, robot: RobotConfig, bag: Path):
        super().__init__("demo_monitor", start_parameter_services=False)
        self._robot, self._recorder, self._lock = robot, Recorder(bag), threading.Lock()
        self._kept: dict[str, list[tuple[float, bytes]]] = defaultdict(list)  # topic -> (received, serialised)
        self.statuses: list[InferenceStatus] = []
        self.measured: list[tuple[float, np.ndarray, np.ndarray]] = []  # stamp, positions, velocities
        self.commands: list[tuple[float, np.ndarray]] = []  # received, positions
        self.trajectories: list[tuple[float, JointTrajectory]] = []  # received, message
        self.frames: dict[str, deque] = {slot: deque() for slot in robot.cameras}  # (stamp, serialised message)
        self._every = dict.fromkeys(robot.cameras, 1)
        self._seen = dict.fromkeys(robot.cameras, 0)
        self.command_arrivals = Intervals(keep=100_000)
        self.prompt = self.create_publisher(String, "pi_vla_ros/prompt", qos.LATCHED)
        for slot, camera in robot.cameras.items():
            kind = Image if camera.transport == "raw" else CompressedImage
            self._watch(kind, camera.topic, qos.IMAGES, functools.partial(self._on_image, slot))
        for kind, topic, profile, take in (
            (JointState, "joint_states", qos.JOINT_STATES, self._keep("joint_states")),
            (JointTrajectory, "joint_trajectory", qos.TELEMETRY, self._keep("joint_trajectory")),
            (TYPES[robot.output.message], "commands", qos.TELEMETRY, self._keep("commands")),
            (InferenceStatus, "pi_vla_ros/status", qos.TELEMETRY, self._keep("pi_vla_ros/status")),
            (ActionChunk, "pi_vla_ros/action_chunk", qos.TELEMETRY, None),
            (String, "pi_vla_ros/prompt", qos.LATCHED, None),
            (DiagnosticArray, "/diagnostics", qos.TELEMETRY, None),
        ):
            self._watch(kind, topic, profile, take)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="monitor", daemon=True)
        self._thread.start()

    @property
    def status(self) -> InferenceStatus | None:
        """The newest."""
        kept = self._kept["pi_vla_ros/status"]
        return deserialize_message(kept[-1][1], InferenceStatus) if kept else None

    @property
    def trajectory_count(self) -> int:
        return len(self._kept["joint_trajectory"])

    @property
    def commanded(self) -> bool:
        """Whether a command of the policy came; holding the measured state is none."""
        status = self.status
        return status is not None and status.joins > 0

    def close(self) -> None:
        """Stop watching; the bag and the lists are complete after this."""
        self._closing.set()
        self._thread.join()
        self._recorder.close()
        self._unpack()
        self.destroy_node()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _watch(self, kind, topic: str, profile, take) -> None:
        write = self._recorder.topic(self.resolve_topic_name(topic), kind, profile)

        def on_message(serialised: bytes) -> None:
            now = time.time()
            write(now, serialised)
            if take:
                take(now, serialised)

        self.create_subscription(kind, topic, on_message, profile, raw=True)

    def _keep(self, topic: str):
        drives = topic == ("commands" if self._robot.streams else "joint_trajectory")

        def keep(now: float, serialised: bytes) -> None:
            self._kept[topic].append((now, serialised))
            if drives:
                self.command_arrivals.mark(now)

        return keep

    def _on_image(self, slot: str, now: float, serialised: bytes) -> None:
        self._seen[slot] += 1
        if self._seen[slot] % self._every[slot]:
            return
        frames = self.frames[slot]
        frames.append((now, serialised))
        if len(frames) > PICTURES:  # keep every other one, take half as many from here on
            self.frames[slot] = deque(list(frames)[::2])
            self._every[slot] *= 2

    def _unpack(self) -> None:
        """What was kept serialised, into values for the report."""
        names = self._robot.joint_names
        for _, serialised in self._kept["joint_states"]:
            message = deserialize_message(serialised, JointState)
            index = {name: i for i, name in enumerate(message.name)}
            if not all(name in index for name in names):
                continue
            order = [index[name] for name in names]
            velocity = np.array(message.velocity)[order] if len(message.velocity) else np.full(len(order), np.nan)
            self.measured.append((seconds(message.header.stamp), np.array(message.position)[order], velocity))
        kind = TYPES[self._robot.output.message]
        self.commands = [(now, joint_positions(deserialize_message(m, kind))) for now, m in self._kept["commands"]]
        self.trajectories = [
            (now, deserialize_message(data, JointTrajectory)) for now, data in self._kept["joint_trajectory"]
        ]
        self.statuses = [deserialize_message(data, InferenceStatus) for _, data in self._kept["pi_vla_ros/status"]]
