# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Plays a recording to the real policy node, with /clock, and reports how the node did.

`ros2 bag play --clock` ticks at 40 Hz, which a 30 Hz timer on ROS time sees as a stagger; here the clock ticks with
every message and at `clock_hz` between them. Recorded commands are not played. The camera topics of a recording look
like a robot's: play on this machine only (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST), never beside a robot.
With play:=false somebody else plays (the line for `ros2 bag play` is told), and this node only listens and reports.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import shlex
import sys
import threading
import time
from pathlib import Path

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from pi_vla_ros.msg import InferenceStatus
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.online_report import write_online_report
from pi_vla_ros.replay.recording import play_command
from pi_vla_ros.replay.source import NANO, SourceError
from pi_vla_ros.robot import Replay, load_robot
from pi_vla_ros.ros import qos
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.messages import time_message
from pi_vla_ros.schema import ConfigError

KINDS = {
    "sensor_msgs/msg/Image": (Image, qos.IMAGES),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, qos.IMAGES),
    "sensor_msgs/msg/JointState": (JointState, qos.TELEMETRY),
    "std_msgs/msg/String": (String, qos.LATCHED),
}
AHEAD = 200  # messages read ahead: decompressing must not delay what is due
QUIET = 3.0  # s without a tick: whoever plays has ended
SETTLE = 1.0  # s after the node has subscribed, for its activation
POLL = 0.05  # s


class BagPlayer(Node):
    """Parameters say what is played; `play` does it."""

    def __init__(self):
        super().__init__("bag_player")
        for name, default, words in (
            ("bag", "", "the recording: a bag folder, .mcap or .db3"),
            ("robot", "sim", "robot: a name known to the package, or the path of a YAML file"),
            ("robot_description", "", "URDF that limits the joints too, its XML or its path"),
            ("rate", 1.0, "1: as recorded; 2: twice as fast"),
            ("start", 0.0, "s from its beginning"),
            ("duration", 0.0, "s; 0: to its end"),
            ("loops", 1, "how often; the clock jumps back each time. 0: until interrupted"),
            ("play", True, "false: `ros2 bag play` plays it; only listen and report"),
            ("clock_hz", 250.0, "ticks of /clock between messages, 1/s"),
            ("patience", 120.0, "s that the policy node may take to be ready"),
            ("report", "", "file for the summary, .json or .html (then with both); empty: none"),
        ):
            self.declare_parameter(name, default, ParameterDescriptor(description=words, read_only=True))
        robot = load_robot(self._value("robot"), self._value("robot_description"))
        robot = dataclasses.replace(robot, replay=Replay(commands="joint_states"))  # commands are not played
        start, duration = self._value("start"), self._value("duration")
        self._source = BagSource(Path(self._value("bag")), robot, self.get_namespace(), start, duration)
        self._rate, self._step = self._value("rate"), 1.0 / self._value("clock_hz")
        if not (self._rate > 0 and self._step > 0):
            raise ConfigError("parameters rate and clock_hz: must be positive")
        self._rest = robot.timing.timeout + 1.0  # s after the last observation: the arm is at rest
        if self._value("play"):
            self._clock = self.create_publisher(Clock, "/clock", QoSProfile(depth=1))
            self._publishers = {
                topic: self.create_publisher(KINDS[kind][0], topic, KINDS[kind][1])
                for topic, kind in self._source.topics().items()
            }
        self._robot = robot.name
        self.statuses: list[InferenceStatus] = []
        self.create_subscription(InferenceStatus, "pi_vla_ros/status", self.statuses.append, qos.TELEMETRY)

    def run(self) -> None:
        """Play, or listen to who plays, then report. Raises SourceError; TimeoutError when nobody is there."""
        if self._value("play"):
            self._wait()
            self._play()
        else:
            self._listen()
        if self._value("report"):
            write_online_report(Path(self._value("report")), self._robot, self._source.name, self.statuses)

    def _play(self) -> None:
        loops, played = self._value("loops"), 0
        while rclpy.ok() and (loops == 0 or played < loops):
            self._play_once()
            played += 1
            self.get_logger().info(f"played {played} time{'s' if played > 1 else ''}; {len(self.statuses)} ticks")
        self._go_on()

    def _listen(self) -> None:
        """Until the node, whose clock is the recording's, falls silent."""
        topics = [topic for topic, kind in self._source.topics().items() if KINDS[kind][0] is not String]
        line = play_command(self._value("bag"), topics, self._rate, self._value("start"), self._value("duration"))
        self.get_logger().info(f"waiting for: {shlex.join(line)}")
        patience, heard, count = self._value("patience"), time.monotonic(), 0
        while rclpy.ok() and time.monotonic() - heard < (QUIET if count else patience):
            if len(self.statuses) > count:
                heard, count = time.monotonic(), len(self.statuses)
            time.sleep(POLL)
        if rclpy.ok() and not count:
            raise TimeoutError(f"no tick of the policy node in {patience} s: is it active, does somebody play?")

    def _wait(self) -> None:
        deadline = time.monotonic() + self._value("patience")
        cameras = [p for p in self._publishers.values() if p.msg_type is not String]
        ready = None
        while ready is None or time.monotonic() < ready:
            if not rclpy.ok():
                raise ExternalShutdownException
            self._tell_time(self._source.start)
            if ready is None and all(p.get_subscription_count() for p in cameras):
                ready = time.monotonic() + SETTLE
            if ready is None and time.monotonic() > deadline:
                silent = ", ".join(p.topic_name for p in cameras if not p.get_subscription_count())
                raise TimeoutError(f"nobody subscribes to {silent}: does the policy node run, with the same robot?")
            time.sleep(POLL)

    def _play_once(self) -> None:
        begin, first = time.monotonic(), self._source.start
        messages: queue.Queue = queue.Queue(AHEAD)
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()
        while rclpy.ok():
            item = messages.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            received, topic, data = item
            due = begin + (received - first) / NANO / self._rate
            while (left := due - time.monotonic()) > 0 and rclpy.ok():
                time.sleep(min(left, self._step))
                passed = (min(time.monotonic(), due) - begin) * self._rate
                self._tell_time(first + int(passed * NANO))
            self._tell_time(received)
            self._publishers[topic].publish(data)

    def _go_on(self) -> None:
        """Nothing new comes, but time goes on until the arm rests: no node may wait for it on a clock that stands."""
        begin = time.monotonic()
        while (passed := (time.monotonic() - begin) * self._rate) < self._rest and rclpy.ok():
            self._tell_time(self._source.end + int(passed * NANO))
            time.sleep(self._step)

    def _read(self, messages: queue.Queue) -> None:
        try:
            for received, topic, _, data in self._source.serialised():
                messages.put((received, topic, bytes(data)))
            messages.put(None)
        except SourceError as error:
            messages.put(error)

    def _tell_time(self, ns: int) -> None:
        self._clock.publish(Clock(clock=time_message(ns / NANO)))

    def _value(self, name: str):
        return self.get_parameter(name).value


def main() -> None:
    use_shared_memory_profile()
    rclpy.init()
    executor = SingleThreadedExecutor()
    spinning = threading.Thread(target=_spin, args=(executor,), daemon=True)
    failed = None
    try:
        player = BagPlayer()
        executor.add_node(player)
        spinning.start()
        player.run()
    except (SourceError, ConfigError, TimeoutError, OSError) as error:
        failed = f"bag_player: {error}"
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    rclpy.try_shutdown()
    if spinning.ident:  # rclpy must not be torn down under a thread that uses it
        spinning.join()
    sys.exit(failed)


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


if __name__ == "__main__":
    main()
