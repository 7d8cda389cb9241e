# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the node sees live, over DDS, and what a replay sees of the recording of the very same messages: the same."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from ros_rig import Rig, start_ros
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from test_demo import demo

from pi_vla_ros.cli.replay import main
from pi_vla_ros.observation_buffer import Nothing, ObservationBuffer
from pi_vla_ros.policy import Policy, PolicyOptions
from pi_vla_ros.processing.frames import decode
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.source import NANO, feed
from pi_vla_ros.replay.twin import Twin
from pi_vla_ros.resources import package_file
from pi_vla_ros.ros import qos
from pi_vla_ros.ros.messages import seconds
from pi_vla_ros.sim.demo.recorder import Recorder

pytestmark = [pytest.mark.ros, pytest.mark.timeout(280)]


class Tap(Node):
    """The policy node's subscriptions and buffer, and a recorder of exactly what they get."""

    def __init__(self, robot, bag):
        super().__init__("tap")
        self.buffer, self.recorder = ObservationBuffer(robot), Recorder(bag)
        for slot, camera in robot.cameras.items():
            self._tap(Image, camera.topic, qos.IMAGES, lambda m, now, slot=slot: self._on_image(slot, m, now))
        self._tap(JointState, "joint_states", qos.JOINT_STATES, self._on_state)
        commands = self.recorder.topic("/commands", Float64MultiArray, qos.COMMANDS)
        commands(time.time(), serialize_message(Float64MultiArray(data=robot.home.tolist())))  # a bag needs commands

    def _tap(self, kind, topic, profile, take):
        record = self.recorder.topic(self.resolve_topic_name(topic), kind, profile)

        def on_message(serialised):
            now = time.time()
            record(now, serialised)
            take(deserialize_message(serialised, kind), now)

        self.create_subscription(kind, topic, on_message, profile, raw=True)

    def _on_image(self, slot, message, now):
        self.buffer.put_image(slot, seconds(message.header.stamp), message, now)

    def _on_state(self, message, now):
        self.buffer.put_state(seconds(message.header.stamp), message.name, message.position)


def observed(taken):
    """A snapshot in values that can be compared; None where there was none."""
    if isinstance(taken, Nothing):
        return taken.reason
    return taken.stamp, taken.skew, taken.state, {slot: (t, decode(m)) for slot, (t, m) in taken.frames.items()}


def test_live_and_offline_observations_are_identical(sim_robot, tmp_path):
    start_ros()
    rig, tap = Rig(sim_robot), Tap(sim_robot, tmp_path / "bag")
    executor = SingleThreadedExecutor()
    executor.add_node(tap)
    live = []
    try:
        due, end = time.time() + 0.5, time.time() + 4.0
        while (now := time.time()) < end:
            if now >= due:
                live.append((time.time(), observed(tap.buffer.take(time.time()))))
                due += 1 / 30
            executor.spin_once(timeout_sec=max(0.0, due - now))
    finally:
        rig.close()
        tap.recorder.close()
        tap.destroy_node()
    buffer, ticks, same = ObservationBuffer(sim_robot), list(live), 0
    for event in BagSource(tmp_path / "bag", sim_robot).events():
        while ticks and ticks[0][0] * NANO < event.received:
            now, expected = ticks.pop(0)
            same += compare(expected, observed(buffer.take(now)))
        if event.kind != "command":
            feed(buffer, event)
    assert same >= 40


def compare(expected, found) -> int:
    """1 for equal sets, 0 where there was none on both sides."""
    if isinstance(expected, str):
        assert found == expected
        return 0
    assert found[:2] == expected[:2]
    np.testing.assert_array_equal(found[2], expected[2])
    for slot, (stamp, frame) in expected[3].items():
        assert found[3][slot][0] == stamp
        np.testing.assert_array_equal(found[3][slot][1], frame)
    return 1


@pytest.mark.slow
def test_the_demos_bag_from_end_to_end(sim_robot, tmp_path):
    run = tmp_path / "run"
    done = demo("--duration", 6, "--out", run)
    assert done.returncode == 0, done.stdout + done.stderr
    arguments = ["--robot", "sim", "--checkpoint", str(run / "checkpoint"), "--bag", str(run / "bag")]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--noise-scale", "0", "--steps", "4"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["episodes"][0]["inferences"] > 30 and summary["episodes"][0]["commands"] == "joint_trajectory"
    check_against_the_live_node(sim_robot, run)


def check_against_the_live_node(robot, run):
    """Where replay and live node answered the same images, they answered the same."""
    policy = Policy(run / "checkpoint", robot, PolicyOptions(target="cpu", cpu_threads=1, steps=4, noise_scale=0.0))
    offline = {}
    twin = Twin(
        robot, policy, "", [0], lambda o, chunk, s, ms: offline.setdefault(round(chunk.stamp, 4), chunk.actions)
    )
    source, tick = BagSource(run / "bag", robot), 0
    for event in source.events():
        while source.start + tick * NANO // 30 < event.received:
            twin.tick(source.start + tick * NANO // 30)
            tick += 1
        if event.kind != "command":
            twin.put(event)
    live = live_chunks(run / "bag")
    shared = set(live) & set(offline)
    assert len(shared) >= 5, (len(live), len(offline))
    # a joint state or a frame that came between the two ticks makes some of them differ
    assert np.median([np.abs(live[t] - offline[t]).max() for t in shared]) < 1e-5


def live_chunks(bag):
    types = get_typestore(Stores.ROS2_JAZZY)
    text = package_file("msg/ActionChunk.msg").read_text(encoding="utf-8")
    types.register(get_types_from_msg(text, "pi_vla_ros/msg/ActionChunk"))
    found = {}
    with Reader(bag) as reader:
        connections = [c for c in reader.connections if c.topic.endswith("/action_chunk")]
        for connection, _, data in reader.messages(connections):
            m = types.deserialize_cdr(data, connection.msgtype)
            found[round(m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec, 4)] = m.actions.reshape(m.horizon, -1)
    return found
