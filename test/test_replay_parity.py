# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the node sees live, over DDS, and what a replay sees of the recording of the very same messages: the same."""

import dataclasses
import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from observing_node import described, wave
from replay_rig import Knows
from ros_rig import Rig, start_ros
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from std_msgs.msg import String
from test_demo import demo

from pi_vla_ros.cli.replay import main
from pi_vla_ros.policy import Policy, PolicyOptions
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.source import NANO
from pi_vla_ros.replay.twin import Twin
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import Replay

OBSERVING = Path(__file__).with_name("observing_node.py")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(280)]


@pytest.mark.slow
def test_live_and_offline_observations_are_identical(sim_robot, tmp_path):
    start_ros()
    rig, log = Rig(sim_robot), tmp_path / "observed"
    command = [sys.executable, OBSERVING, tmp_path / "bag", log, "--ros-args", "-p", "robot:=sim"]
    parameters = [part for p in ("checkpoint:=none", "autostart:=true") for part in ("-p", p)]
    node = subprocess.Popen([*map(str, command), *parameters], stdout=(tmp_path / "log").open("wb"), stderr=-2)
    try:
        rig.until(lambda: rig.statuses and rig.status.inferences > 100, 60.0, "a hundred inferences")
        rig.prompt.publish(String(data="fold the towel"))
        rig.until(lambda: rig.status.prompt == "fold the towel", 10.0, "the prompt")
    finally:
        rig.close()
        node.terminate()
        assert node.wait(20) == 0, (tmp_path / "log").read_text()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    live = [row for row in rows if "stamp" in row and row["prompt"] == sim_robot.prompt]
    assert len(live) >= 100
    assert offline(sim_robot, tmp_path / "bag", [row["tick"] for row in rows if "tick" in row])[: len(live)] == live
    assert all(row["frozen"] > 50_000 for row in rows if "tick" in row)  # no full collection while it is active
    assert len({json.dumps(row["state"]) for row in live}) > 20  # the arm moved: states and images are of their time


def offline(robot, bag, ticks):
    """What a replay of the bag shows a policy, with ticks at these times, ns."""
    seen = []

    class Sees(Knows):
        def infer(self, observation, previous=None, delay=0.0):
            seen.append(described(observation))
            return wave(observation)

    source = BagSource(bag, dataclasses.replace(robot, replay=Replay(commands="joint_states")))
    twin = Twin(robot, Sees(0.1), "", [0], ticks[0], lambda *_: None)
    ticks = deque(ticks)
    for event in source.events():
        while ticks and ticks[0] < event.received:
            twin.tick(ticks.popleft())
        if event.kind != "command":
            twin.put(event)
    return seen


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
    source, tick = BagSource(run / "bag", robot), 0
    twin = Twin(
        robot,
        policy,
        "",
        [0],
        source.start,
        lambda o, chunk, s, ms: offline.setdefault(round(chunk.stamp, 4), chunk.actions),
    )
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
