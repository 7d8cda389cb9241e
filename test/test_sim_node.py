# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated robot as its own process, over DDS: what it sends, follows, refuses and reports."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pi_vla_ros.robot import load_robot
from pi_vla_ros.sim.cdr import read_trajectory

rclpy = pytest.importorskip("rclpy")
pytestmark = [pytest.mark.ros]

ROOT = Path(__file__).parents[1]
ROBOT = load_robot("sim")
RATES = {"base_0_rgb": 20.0, "left_wrist_0_rgb": 15.0, "right_wrist_0_rgb": 10.0}


def start(folder, *parameters, ros_domain):
    """The robot's process; its report goes to folder / 'report.json'."""
    arguments = ["--ros-args"]
    for parameter in (f"report:={folder / 'report.json'}", *parameters):
        arguments += ["-p", parameter]
    return subprocess.Popen(
        [sys.executable, "-m", "pi_vla_ros.sim.node", *arguments],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def ros_domain():
    return 60 + os.getpid() % 40


class Listener:
    """Everything that the robot sends, and what it is told."""

    def __init__(self, domain):
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Float64MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from pi_vla_ros.ros.dds import use_shared_memory_profile

        use_shared_memory_profile()
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.images = {slot: [] for slot in ROBOT.cameras}
        self.states = []
        sensor = rclpy.qos.qos_profile_sensor_data
        for slot, camera in ROBOT.cameras.items():
            self.node.create_subscription(Image, camera.topic, self.images[slot].append, sensor)
        self.node.create_subscription(JointState, "joint_states", self.states.append, 50)
        self.trajectory = self.node.create_publisher(JointTrajectory, "joint_trajectory", 10)
        self.commands = self.node.create_publisher(Float64MultiArray, "commands", 10)

    def spin(self, seconds=None, until=None, limit=30.0):
        """For so many seconds, or until something is true."""
        end = time.monotonic() + (limit if seconds is None else seconds)
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
            if until and until():
                return
        assert until is None, "waited in vain"

    def positions(self):
        """(joints,) the last that were heard, in the robot file's order."""
        heard = dict(zip(self.states[-1].name, self.states[-1].position, strict=True))
        return np.array([heard[name] for name in ROBOT.joint_names])

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def listener(ros_domain):
    listener = Listener(ros_domain)
    yield listener
    listener.close()


def finish(process, number=signal.SIGINT):
    """End the robot and return what it said."""
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


def seconds(stamp):
    return stamp.sec + stamp.nanosec * 1e-9


def trajectory(names, points, stamp=0.0):
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    message = JointTrajectory(joint_names=list(names))
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
    for at, positions, velocities in points:
        point = JointTrajectoryPoint(positions=list(positions), velocities=list(velocities))
        point.time_from_start.sec = int(at)
        point.time_from_start.nanosec = int(at % 1 * 1e9)
        message.points.append(point)
    return message


def test_rates_stamps_and_report(tmp_path, listener, ros_domain):
    rates = f"camera_hz:={list(RATES.values())}"
    process = start(tmp_path, rates, "width:=128", "height:=96", ros_domain=ros_domain)
    try:
        listener.spin(until=lambda: listener.states and all(listener.images.values()))
        listener.spin(4.0)
    finally:
        said = finish(process)
    assert "follows trajectory" in said

    report = json.loads((tmp_path / "report.json").read_text())
    now = time.time()
    for slot, hz in RATES.items():
        stamps = [seconds(image.header.stamp) for image in listener.images[slot]]
        assert all(b > a for a, b in pairwise(stamps))
        assert now - 60 < stamps[0] < now
        assert 0.5 * hz < (len(stamps) - 1) / (stamps[-1] - stamps[0]) < 1.1 * hz
        sent = report["cameras"][slot]["sent"]
        assert len(sent) >= len(stamps)
        assert set(np.round(stamps, 4)) <= set(np.round(sent, 4))
        image = listener.images[slot][-1]
        assert (image.width, image.height, image.encoding, image.step) == (128, 96, "rgb8", 384)
        assert np.frombuffer(image.data, np.uint8).std() > 10

    names = listener.states[0].name
    assert sorted(names) == sorted(ROBOT.joint_names)
    assert list(names) != ROBOT.joint_names  # who reads must go by name
    assert all(state.name == names for state in listener.states)
    assert listener.positions() == pytest.approx(ROBOT.home, abs=1e-3)
    stamps = [seconds(state.header.stamp) for state in listener.states]
    assert all(b > a for a, b in pairwise(stamps))
    assert 100 < (len(stamps) - 1) / (stamps[-1] - stamps[0]) < 205
    assert report["joint_states"]["sent"] >= len(stamps)
    assert max(report["tracking_error"].values()) < 1e-3


def test_it_follows_trajectories_by_name_counts_commands_and_refuses(tmp_path, listener, ros_domain):
    process = start(tmp_path, "camera_hz:=[5.0]", ros_domain=ros_domain)
    try:
        ready = listener.trajectory.get_subscription_count
        listener.spin(until=lambda: ready() and listener.states)
        goal = ROBOT.home + 0.2 * np.array([1, 0, -1, 1, 0, 1, 0, 0.05])
        names, still = ROBOT.joint_names[::-1], np.zeros(8)
        listener.trajectory.publish(trajectory(names, [(1.0, goal[::-1], still)]))
        listener.commands.publish(_array(ROBOT.home - 0.5))
        listener.trajectory.publish(trajectory(names, [(1.0, ROBOT.home, still + 1)]))
        listener.spin(until=lambda: np.abs(listener.positions() - goal).max() < 2e-3)
        listener.spin(0.5)
    finally:
        said = finish(process, signal.SIGTERM)
    assert listener.positions() == pytest.approx(goal, abs=2e-3)
    assert "trajectory refused: ends_moving" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["trajectory"]["accepted"] == 1
    assert report["trajectory"]["rejected"] == {"ends_moving": 1}
    assert report["commands"]["accepted"] == 1
    assert 0 < max(report["tracking_error"].values()) < 0.1


def test_it_follows_commands_and_faults_hit_joint_states(tmp_path, listener, ros_domain):
    faults = "faults:='missing_joint:joint3:3-3.5 nan_state:joint2:4-4.5 stop:all_cameras:0-'"
    process = start(tmp_path, faults, "follow:=commands", ros_domain=ros_domain)
    try:
        listener.spin(until=lambda: listener.states and listener.commands.get_subscription_count())
        goal = ROBOT.home + 0.1
        listener.commands.publish(_array(goal))
        began = seconds(listener.states[0].header.stamp)
        listener.spin(until=lambda: seconds(listener.states[-1].header.stamp) > began + 5.0)
    finally:
        finish(process)
    expected = np.minimum(goal, [joint.position[1] for joint in ROBOT.joints])
    assert listener.positions() == pytest.approx(expected, abs=2e-3)
    lacking = [state for state in listener.states if "joint3" not in state.name]
    assert lacking and len(lacking[0].name) == len(lacking[0].position) == 7
    broken = [state for state in listener.states if np.isnan(state.position).any()]
    assert broken
    for state in broken:
        assert [n for n, p in zip(state.name, state.position, strict=True) if np.isnan(p)] == ["joint2"]
    assert not any(listener.images.values())


@pytest.mark.parametrize("fields", [("velocities",), ("velocities", "accelerations"), (), ("effort",)])
@pytest.mark.parametrize("frame", ["", "base_link", "abc"])
def test_trajectories_are_read_from_their_bytes(fields, frame):
    from rclpy.serialization import serialize_message
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    rng = np.random.default_rng(0)
    names = ["a", "bc", "def"]
    message = JointTrajectory(joint_names=names)
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = 1700000000, 250_000_000
    for k in range(5):
        point = JointTrajectoryPoint(positions=list(rng.normal(size=3)))
        for name in fields if k else ():  # the first point has positions only
            setattr(point, name, list(rng.normal(size=3)))
        point.time_from_start.sec, point.time_from_start.nanosec = k, 500_000_000
        message.points.append(point)
    command = read_trajectory(serialize_message(message))
    assert (command.stamp, list(command.joint_names)) == (1700000000.25, names)
    assert [p.time for p in command.points] == [0.5, 1.5, 2.5, 3.5, 4.5]
    for k, (point, sent) in enumerate(zip(command.points, message.points, strict=True)):
        assert np.array_equal(point.positions, sent.positions)
        for name in ("velocities", "accelerations"):
            values = getattr(point, name)
            assert (values is not None) == (k > 0 and name in fields)
            assert values is None or np.array_equal(values, getattr(sent, name))
        assert point.effort == (k > 0 and "effort" in fields)


def test_what_is_no_cdr_is_refused():
    with pytest.raises(ValueError, match="not a CDR message"):
        read_trajectory(b"\x07\x07\x07\x07")


def test_a_compressed_image_is_a_jpeg_of_the_pixels():
    from PIL import Image

    from pi_vla_ros.sim.messages import to_jpeg

    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = (200, 100, 50)
    message = to_jpeg(12.25, "frame", pixels)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 250_000_000)
    assert "jpeg" in message.format
    decoded = np.array(Image.open(io.BytesIO(bytes(message.data)))).astype(int)
    assert np.abs(decoded - pixels).mean() < 4


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("robot:=nobody", ["'nobody' is not known", "aloha"]),
        ("faults:='drop:front:1-2'", ["fault 'drop:front:1-2'", "base_0_rgb"]),
        ("camera_hz:=[30.0, 20.0]", ["camera_hz", "right_wrist_0_rgb"]),
        ("camera_hz:=[0.0]", ["camera_hz", "0.1 to 200 Hz"]),
        ("follow:=me", ["follow", "trajectory, commands"]),
        ("width:=5", ["width", "16"]),
        ("seed:=yes", ["seed"]),
    ],
)
def test_wrong_parameters_are_explained(tmp_path, parameter, words, ros_domain):
    process = start(tmp_path, parameter, ros_domain=ros_domain)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


def _array(values):
    from std_msgs.msg import Float64MultiArray

    return Float64MultiArray(data=[float(v) for v in values])
