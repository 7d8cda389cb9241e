# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The streamer as the process that it is, real DDS around it: each kind of message, and how it begins and ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from boundless import boundless

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from ros_rig import start_ros
from sensor_msgs.msg import JointState

from pi_vla_ros.control.board import ANY_TIME, TrajectoryBoard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import load_robot
from pi_vla_ros.ros.commands import TYPES, JointCommand, joint_positions
from pi_vla_ros.ros.stream import Stream, StreamSpec
from pi_vla_ros.ros.streamer import play
from pi_vla_ros.types import Trajectory, seconds

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

HZ, STEP = 200.0, 0.01


class Listener:
    """Keeps (received s, message) of one topic."""

    def __init__(self, kind, topic):
        self.heard = []
        self.node = rclpy.create_node("stream_listener")
        self.node.create_subscription(kind, topic, self._take, QoSProfile(depth=2000))
        self._executor, self._closing = SingleThreadedExecutor(), threading.Event()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def until(self, condition, what, limit=30.0):
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, f"waited {limit} s for {what}"
            time.sleep(0.005)

    def close(self):
        self._closing.set()
        self._thread.join()
        self.node.destroy_node()

    def _take(self, message, info):
        self.heard.append((1e-9 * info["received_timestamp"], message))

    def _spin(self):
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.05)


@pytest.fixture(autouse=True)
def isolated():
    start_ros()


@pytest.fixture
def listen():
    opened = []

    def start(kind, topic):
        opened.append(Listener(kind, topic))
        return opened[-1]

    yield start
    for listener in opened:
        listener.close()


def smooth(begin, end, seconds, start):
    """From `begin` to `end` (joints,) by the quintic that rests at both ends; starts at `start` s, ROS clock."""
    s = np.linspace(0, 1, round(seconds / STEP) + 1)[:, None]
    positions = begin + s**3 * (10 + s * (6 * s - 15)) * (end - begin)
    velocities = 30 * s**2 * (s - 1) ** 2 * (end - begin) / seconds
    return Trajectory(round(start / STEP), STEP, positions, velocities)


@pytest.mark.parametrize(
    "kind", [next(iter(TYPES)), *(pytest.param(k, marks=pytest.mark.slow) for k in list(TYPES)[1:])]
)
def test_the_simulated_robot_follows_each_kind_of_message(kind, tmp_path, listen):
    data = yaml.safe_load(package_file("config/robots/sim.yaml").read_text())
    data["output"] = {"mode": "stream", "message": kind, "command_hz": HZ}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    robot, report = load_robot(tmp_path / "r.yaml"), tmp_path / "report.json"
    arguments = [f"robot:={tmp_path / 'r.yaml'}", f"report:={report}", "faults:='stop:all_cameras:0-'"]
    simulated = subprocess.Popen(
        [sys.executable, "-m", "pi_vla_ros.sim.node", "--ros-args", *(x for a in arguments for x in ("-p", a))]
    )
    listener, states = listen(TYPES[kind], "commands"), listen(JointState, "joint_states")
    stream = Stream(
        StreamSpec("streamer", tuple(robot.joint_names), "/commands", HZ, boundless(len(robot.joints)), kind)
    )
    try:
        listener.until(lambda: states.heard, "the robot")
        stream.play(True)
        assert stream.offer(smooth(robot.home, robot.home, 0.1, time.time()), ANY_TIME)
        listener.until(lambda: listener.heard, "the stream")
        nod = robot.home + 0.02 * np.eye(8)[6]
        nodding = smooth(robot.home, nod, 0.5, time.time() + 0.2)
        assert stream.offer(nodding, nodding.first)
        listener.until(lambda: _position(states, robot)[6] > nod[6] - 5e-3, "the robot to hear the stream")
        goal = robot.home + 0.2 * np.array([1, 0, -1, 1, 0, 1, 0, 0.05])
        plan = smooth(nod, goal, 1.0, time.time() + 0.2)
        assert stream.offer(plan, plan.first)
        listener.until(lambda: time.time() > plan.end + 0.3, "the end of the motion")
    finally:
        stream.close()
        simulated.send_signal(signal.SIGINT)
        try:
            assert simulated.wait(20) == 0
        finally:
            simulated.kill()
    told = json.loads(report.read_text())
    assert told["follows"] == "commands" and told["commands"]["rejected"] == {}
    assert told["commands"]["accepted"] > 150 and max(told["tracking_error"].values()) < 0.1
    sent = np.array([joint_positions(m) for _, m in listener.heard])
    np.testing.assert_allclose(sent[0], robot.home, atol=2e-3)
    np.testing.assert_allclose(sent[-1], goal, atol=1e-9)
    np.testing.assert_allclose(_position(states, robot), goal, atol=2e-3)
    assert np.abs(np.diff(sent, axis=0)).max() < 0.2 * 1.875 * 0.3  # never more than 0.3 s of the fastest at once
    for _, message in listener.heard[:: len(listener.heard) // 10]:
        _check(message, robot)


def _position(states, robot):
    heard = dict(zip(states.heard[-1][1].name, states.heard[-1][1].position, strict=True))
    return np.array([heard[name] for name in robot.joint_names])


def _check(message, robot):
    """What the controllers of ros2_controllers ask for."""
    if hasattr(message, "data"):
        assert len(message.data) == 8
        return
    if hasattr(message, "points"):
        assert message.joint_names == robot.joint_names and len(message.points) == 1
        assert seconds(message.header.stamp) == 0.0  # now
        (message,) = message.points
        assert len(message.velocities) == 0  # of a last point, it would have to be zero
        assert seconds(message.time_from_start) == 0.0  # at once, however fast the controller runs
    else:
        assert len(message.velocities) == 8
        assert seconds(message.time_from_start) == pytest.approx(1 / HZ, abs=1e-9)
    assert len(message.positions) == 8 and not len(message.accelerations) and not len(message.effort)


def test_points_tell_where_to_be_a_period_ahead():
    p, v = np.array([1.0, 2.0]), np.array([0.1, -0.2])
    ahead = {kind: JointCommand(kind, ["a", "b"], 0.004).ahead for kind in TYPES}
    assert ahead == {"float64_multi_array": 0.0, "joint_trajectory_point": 0.004, "joint_trajectory": 0.0}
    for kind in TYPES:
        np.testing.assert_array_equal(joint_positions(JointCommand(kind, ["a", "b"], 0.004).message(p, v)), p)
    assert list(JointCommand("joint_trajectory_point", ["a", "b"], 0.004).message(p, v).velocities) == [0.1, -0.2]


def test_a_twist_is_the_axes_velocity_and_comes_to_rest_when_silenced(listen):
    """In the middle of a motion (a clock that jumped): it ends within the limits, the last twist is zero."""
    twists, commands = listen(TwistStamped, "hand"), listen(TYPES["float64_multi_array"], "commands")
    axes, hardest = {0: "linear.z", 2: "angular.x"}, 2.0
    limits = Limits(*(np.full(3, x) for x in (-9.0, 9.0, 1.0, hardest, 20.0)))
    spec = StreamSpec(
        "streamer", ("z", "gripper", "rx"), "/commands", HZ, limits, axes=axes, twist_topic="/hand", frame="base"
    )
    stream = Stream(spec)
    try:
        twists.until(lambda: twists.node.count_publishers("hand"), "the streamer")
        stream.play(True)
        begin, goal = np.array([0.0, 0.1, 0.0]), np.array([0.5, 0.7, -1.0])
        plan = smooth(begin, goal, 4.0, time.time())
        stream.offer(plan, plan.last)
        twists.until(lambda: time.time() > plan.start + 1.0, "half of the motion")
        stream.play(False)
        silenced = time.time()
        twists.until(lambda: twists.heard and not twists.heard[-1][1].twist.linear.z, "the last twist")
        time.sleep(0.3)
        sent = stream.sent
        time.sleep(0.3)
        assert stream.sent == sent
    finally:
        stream.close()
    stamps = np.array([seconds(m.header.stamp) for _, m in twists.heard])
    speeds = np.array([m.twist.linear.z for _, m in twists.heard])
    assert (np.abs(np.diff(speeds)) <= hardest * np.diff(stamps) * 1.01 + 1e-3).all()
    moving = [m for _, m in twists.heard if seconds(m.header.stamp) < silenced]
    assert len(moving) > 50 and moving[-1].twist.linear.z > 0.1
    for message in moving[10::20]:
        at = (seconds(message.header.stamp) - plan.start) / 4.0
        assert message.header.frame_id == "base"
        assert message.twist.linear.z == pytest.approx(0.5 / 4 * 30 * at**2 * (at - 1) ** 2, abs=1e-3)
        assert message.twist.angular.x == pytest.approx(-2 * message.twist.linear.z, abs=1e-9)
        assert message.twist.linear.x == message.twist.angular.z == 0.0
    last = twists.heard[-1][1].twist
    assert (last.linear.z, last.angular.x) == (0.0, 0.0)
    grips = np.array([joint_positions(m) for _, m in commands.heard])
    assert grips.shape[1] == 1 and grips[0, 0] == pytest.approx(0.1, abs=1e-3) and np.all(np.diff(grips[:, 0]) >= 0)


def test_it_ends_when_told_and_leaves_nothing_behind():
    def memories():
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd)]
        return sum("pi_vla_ros_trajectory" in link for link in links)

    before, shared = memories(), {n for n in os.listdir("/dev/shm") if "pi_vla_ros" in n}
    stream = Stream(StreamSpec("streamer", ("a",), "/commands", HZ, boundless(1)))
    pid = stream.pid
    assert memories() > before and "pi_vla_ros_trajectory" in Path(f"/proc/{pid}/maps").read_text()
    stream.close()
    assert memories() == before and not os.path.exists(f"/proc/{pid}")
    assert {n for n in os.listdir("/dev/shm") if "pi_vla_ros" in n} == shared


def test_an_offer_that_found_the_streamer_hanging_is_not_executed_later(listen):
    """The node plans on from what it believes is executed: a streamer that wakes up must not believe something else."""
    commands = listen(TYPES["float64_multi_array"], "commands")
    stream = Stream(StreamSpec("streamer", ("a",), "/commands", HZ, boundless(1)))
    try:
        stream.play(True)
        still = smooth(np.zeros(1), np.zeros(1), 0.1, time.time())
        assert stream.offer(still, still.last)
        commands.until(lambda: commands.heard, "the stream")
        os.kill(stream.pid, signal.SIGSTOP)
        later = smooth(np.zeros(1), np.ones(1), 0.5, time.time() + 1.0)
        assert not stream.offer(later, later.first)
        os.kill(stream.pid, signal.SIGCONT)
        commands.until(lambda: time.time() > later.end, "the end of what was offered")
        count = len(commands.heard)
        commands.until(lambda: len(commands.heard) > count + 3, "the stream")
    finally:
        stream.close()
    assert {m.data[0] for _, m in commands.heard} == {0.0}


def test_where_to_rest_is_taken_however_late_it_is_heard(listen):
    commands = listen(TYPES["float64_multi_array"], "commands")
    stream = Stream(StreamSpec("streamer", ("a",), "/commands", HZ, boundless(1)))
    try:
        stream.play(True)
        still = smooth(np.zeros(1), np.zeros(1), 0.1, time.time())
        assert stream.offer(still, still.last)
        os.kill(stream.pid, signal.SIGSTOP)
        stream.offer(smooth(np.ones(1), np.ones(1), 0.1, time.time()), ANY_TIME)
        os.kill(stream.pid, signal.SIGCONT)
        commands.until(lambda: commands.heard and commands.heard[-1][1].data[0] == 1.0, "the place")
    finally:
        stream.close()


def _open(fd) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("cpu", [0, 4095])
def test_the_core_it_runs_on(cpu, capfd):
    stream = Stream(StreamSpec("streamer", ("a",), "/commands", HZ, boundless(1), cpu=cpu))
    allowed = os.sched_getaffinity(stream.pid)
    stream.close()
    said = capfd.readouterr().err
    if cpu == 0:
        assert allowed == {0} and "output.cpu" not in said
    else:
        assert allowed == os.sched_getaffinity(0)
        assert said.count("output.cpu: core 4095 is not there or not allowed") == 1


class Nowhere:
    """An output that keeps velocities; the board is asked to close at the tenth command."""

    ahead = 0.0

    def __init__(self, board):
        self.board, self.sent, self.times, self.halted = board, [], [], 0

    def send(self, now, positions, velocities):
        self.times.append(time.monotonic())
        self.sent.append(velocities.copy())
        if len(self.sent) == 10:
            self.board.ask_to_close()

    def halt(self, now):
        self.halted += 1


@pytest.mark.parametrize("set_to", [5.1, 50.0])
def test_it_ends_on_a_clock_that_stands_still_and_at_rest_on_one_that_was_set(set_to):
    """The clock stands at 5.1 s, in the middle of a motion; or it is set far beyond its end, and the final limiter
    leads there."""
    board = TrajectoryBoard(1)
    output = Nowhere(board)
    board.play(True)
    plan = smooth(np.zeros(1), np.ones(1), 1.0, 4.6)
    board.write(plan, plan.last)
    one, begin = np.ones(1), time.monotonic()
    limits = Limits(-9 * one, 9 * one, 3 * one, 10 * one, 200 * one)

    def now():
        if len(output.sent) >= 10:
            return set_to
        return 5.0 + min(0.1, time.monotonic() - begin)

    play(board, HZ, os.getppid(), now, time.monotonic, output, Guard(limits))
    assert 10 < len(output.sent) < 1000 and output.halted == 1
    speeds = np.array(output.sent)[:, 0]
    assert speeds[:10].max() > 1.0
    if set_to > plan.end:
        assert speeds[-1] == 0.0
        fastest = np.argmax(np.abs(speeds))
        assert output.times[-1] - output.times[fastest] > 0.9 * abs(speeds[fastest]) / 10  # braked, not cut off
    board.close()
