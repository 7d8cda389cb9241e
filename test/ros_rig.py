# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A fake robot and an observer around the real policy node, which runs as its own process: real DDS between them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.srv import ChangeState
from pi_vla_ros.msg import ActionChunk, InferenceStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from scipy.interpolate import CubicHermiteSpline
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.ros.commands import TYPES, joint_positions
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.qos import LATCHED
from pi_vla_ros.types import seconds

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
CAMERA_HZ, STATE_HZ = 30.0, 200.0
STALL = 0.3  # s that a busy machine may put a process aside between its looking at the clock and its writing


def start_ros() -> None:
    """A domain of our own on this machine: tests never talk to anybody else."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 99)
    use_shared_memory_profile()
    if not rclpy.ok():
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)


class PolicyProcess:
    """The policy node; `log` is what it printed."""

    def __init__(self, log: Path, **parameters):
        arguments = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pi_vla_ros.ros.policy_node", "--ros-args", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Rig(Node):
    """Publishes three cameras and joint states that follow the stream; keeps everything that the node says.

    Lists hold (sent s, message): by the writer's stamp, what the node did, whenever this busy process hears of it.
    `cameras_on`, `states_on`, `measured` and `corrupt` change what the robot sends.
    """

    def __init__(self, robot: RobotConfig):
        super().__init__("rig")
        self.robot, self.position = robot, robot.measured(robot.home)
        commanded = [j.name for j in robot.joints if not j.axis]
        self._commanded = [robot.measured_names.index(name) for name in commanded]
        self.twists: list[tuple[float, TwistStamped]] = []
        self.statuses: list[tuple[float, InferenceStatus]] = []
        self.commands: list[tuple[float, np.ndarray]] = []
        self.trajectories: list[tuple[float, JointTrajectory]] = []
        self.chunks: list[tuple[float, ActionChunk]] = []
        self.cameras_on = self.states_on = True
        self.measured = lambda: self.position
        self.corrupt = lambda message: message  # applied to every joint state and image
        self._images = {
            slot: self.create_publisher(_kind(camera), camera.topic, qos_profile_sensor_data)
            for slot, camera in robot.cameras.items()
        }
        self._states = self.create_publisher(JointState, "joint_states", 10)
        self.prompt = self.create_publisher(String, "pi_vla_ros/prompt", LATCHED)
        keep_all = QoSProfile(depth=1000)
        listen = self.create_subscription
        commands = listen(TYPES[robot.output.message], "commands", self._on_command, keep_all)
        trajectories = listen(JointTrajectory, "joint_trajectory", self._keep(self.trajectories), keep_all)
        self._outputs = [commands] * (robot.streams and bool(commanded)) + [trajectories] * robot.sends_trajectories
        if robot.twist:
            self._outputs.append(listen(TwistStamped, robot.twist.topic, self._keep(self.twists), keep_all))
        self.create_subscription(InferenceStatus, "pi_vla_ros/status", self._keep(self.statuses), LATCHED)
        self.create_subscription(ActionChunk, "pi_vla_ros/action_chunk", self._keep(self.chunks), keep_all)
        self._frames = self._make_frames()
        self._asked = {}
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._spin, self._send)]
        for thread in self._threads:
            thread.start()

    def call(self, kind, name: str, request, timeout: float = 60.0):
        """The answer of a service of the policy node."""
        if name not in self._asked:
            self._asked[name] = self.create_client(kind, f"pi_vla_ros/{name}")
        client = self._asked[name]
        assert client.wait_for_service(timeout), f"no service {name}"
        future = client.call_async(request)
        self.until(future.done, timeout, f"answer of {name}")
        return future.result()

    def change_state(self, transition: int) -> bool:
        """Before it activates, as who brings up a robot does, it waits until it hears the node's outputs: what is sent
        before that is not kept for it."""
        if transition == ACTIVATE:
            self.until(lambda: all(s.get_publisher_count() for s in self._outputs), 20.0, "outputs of the node")
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, "change_state", request).success

    def switch(self, name: str, data: bool):
        return self.call(SetBool, name, SetBool.Request(data=data))

    def reset(self):
        return self.call(Trigger, "reset", Trigger.Request())

    @property
    def status(self) -> InferenceStatus:
        return self.statuses[-1][1]

    def until(self, condition, timeout: float, what: str) -> None:
        """Wait for something that must happen."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s for: {what}; {self._describe()}"
            time.sleep(0.005)

    def until_state(self, state: str, timeout: float = 30.0) -> None:
        self.until(lambda: self.statuses and self.status.state == state, timeout, f"state {state}")

    def until_ticks(self, count: int) -> None:
        """Wait until the node told of `count` more ticks: the sentinel of 'nothing was published meanwhile'."""
        begin = self.status.tick
        self.until(lambda: self.status.tick >= begin + count, 30.0, f"{count} ticks")

    def published(self) -> int:
        return len(self.commands) + len(self.trajectories)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self.destroy_node()

    def _describe(self) -> str:
        return f"last state {self.status.state}: {self.status.detail}" if self.statuses else "no status came"

    def _keep(self, kept: list):
        return lambda message, info: kept.append((1e-9 * info["source_timestamp"], message))

    def _on_command(self, message, info: dict) -> None:
        told, position = joint_positions(message), self.position.copy()
        position[self._commanded] = told
        self.position = position
        self.commands.append((1e-9 * info["source_timestamp"], told))

    def _make_frames(self) -> dict[str, bytes]:
        rng = np.random.default_rng(0)
        return {slot: rng.integers(0, 256, 48 * 64 * 3, dtype=np.uint8).tobytes() for slot in self._images}

    def _send(self) -> None:
        """Joint states at their rate; cameras at theirs, a few ms apart from each other as real ones are."""
        names, begin, tick = self.robot.measured_names, time.monotonic(), 0
        every = round(STATE_HZ / CAMERA_HZ)
        while not self._closing.is_set():
            tick += 1
            time.sleep(max(0.0, begin + tick / STATE_HZ - time.monotonic()))
            now = self.get_clock().now().to_msg()
            if self.states_on:
                message = JointState(name=list(reversed(names)), position=list(reversed(self.measured().tolist())))
                message.header.stamp = now
                self._states.publish(self.corrupt(message))
            if not self.cameras_on:
                continue
            for k, (slot, publisher) in enumerate(self._images.items()):
                if tick % every == 2 * k % every:
                    image = self._image(slot)
                    image.header.stamp = now
                    publisher.publish(self.corrupt(image))

    def _image(self, slot: str):
        frame = self._frames[slot]
        if _kind(self.robot.cameras[slot]) is CompressedImage:
            jpeg = cv2.imencode(".jpg", np.frombuffer(frame, np.uint8).reshape(48, 64, 3))[1]
            return CompressedImage(format="jpeg", data=jpeg.tobytes())
        return Image(height=48, width=64, encoding="rgb8", step=192, data=frame)

    def _spin(self) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        while not self._closing.is_set():
            executor.spin_once(timeout_sec=0.05)


def _kind(camera) -> type:
    return CompressedImage if camera.transport == "compressed" else Image


@dataclass(frozen=True)
class Heard:
    """A JointTrajectory as a controller sees it: cubic Hermite between its points (scipy's, not ours)."""

    sent: float  # s
    knots: np.ndarray  # s
    spline: CubicHermiteSpline

    @classmethod
    def of(cls, sent: float, message: JointTrajectory) -> Heard:
        knots = seconds(message.header.stamp) + np.array([seconds(p.time_from_start) for p in message.points])
        positions, velocities = (np.array([getattr(p, k) for p in message.points]) for k in ("positions", "velocities"))
        return cls(sent, knots, CubicHermiteSpline(knots - knots[0], positions, velocities))

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity; held at its end."""
        x = min(max(t, self.knots[0]), self.knots[-1]) - self.knots[0]
        position = self.spline(x)
        return position, self.spline(x, 1) if self.knots[0] <= t < self.knots[-1] else np.zeros_like(position)

    def leaves(self, other: Heard) -> float:
        """The time up to which both say the same, s: when it is taken over until then, there is no step."""
        for k, t in enumerate(self.knots):
            if any(np.abs(a - b).max() > 1e-5 for a, b in zip(self.at(t), other.at(t), strict=True)):
                return self.knots[max(k - 1, 0)]
        return self.knots[-1]


def commanded_by_trajectories(heard: list[Heard], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at `times`: of the newest message that was sent. One that a machine without time for us
    put aside between the node's last look at the clock and the wire counts from where it leaves the one before."""
    taken = [heard[0].sent] + [min(b.sent, b.leaves(a)) for a, b in itertools.pairwise(heard)]
    newest = np.maximum(np.searchsorted(taken, times, side="right") - 1, 0)
    rows = [heard[k].at(t) for k, t in zip(newest, times, strict=True)]
    return np.array([p for p, _ in rows]), np.array([v for _, v in rows])


def off_the_path(heard: list[Heard], commands: list[tuple[float, np.ndarray]], late: float) -> np.ndarray:
    """How far each command (sent s, positions) is from where `heard` says to be at some moment of the `late` s before
    it was sent: a streamer looks at its clock first."""
    interval = 1e-3
    times = np.arange(commands[0][0] - late, commands[-1][0] + interval, interval)
    path, _ = commanded_by_trajectories(heard, times)
    last = np.searchsorted(times, [t for t, _ in commands])
    window = round(late / interval)
    seen = [(path[max(0, k - window) : k + 1], p) for k, (_, p) in zip(last, commands, strict=True)]
    return np.array([np.abs(where - p).max(axis=1).min() for where, p in seen])
