# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Small recordings of a known motion, and a policy that knows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from pi_vla_ros.processing.frames import ordinary
from pi_vla_ros.types import ActionChunk, Observation

TYPES = get_typestore(Stores.ROS2_JAZZY)
BEGIN = 1_700_000_000_000_000_000  # ns
CAMERA_HZ, STATE_HZ, COMMAND_HZ = 15, 50, 25
SLOTS = ("base", "left_wrist", "right_wrist")


def motion(time: float | np.ndarray, joints: int = 8) -> np.ndarray:
    """Commanded positions at `time` s since the recording's beginning: slow sines, inside the limits of robot 'sim'."""
    phase = np.arange(joints)
    middle = np.array([0.0, 0.3, 0.0, -1.8, 0.0, 2.1, 0.8, 0.04])[:joints]
    size = np.array([0.3] * 7 + [0.02])[:joints]
    return middle + size * np.sin(0.8 * np.asarray(time)[..., None] + phase)


class Knows:
    """A policy that predicts the demonstration exactly, plus `error`."""

    empty_frame = staticmethod(ordinary)

    def __init__(self, dt: float, horizon: int = 10, error: float = 0.0, begin: float = BEGIN * 1e-9):
        self.dt, self.horizon, self.error, self.begin = dt, horizon, error, begin
        self.seen: list[Observation] = []

    def infer(self, observation: Observation, previous: ActionChunk | None = None, delay: float = 0.0) -> ActionChunk:
        self.seen.append(observation)
        times = observation.stamp - self.begin + np.arange(self.horizon) * self.dt
        actions = motion(times) + self.error
        return ActionChunk(actions, observation.stamp, self.dt, actions.astype(np.float32), {"all": 1.0})

    def check_prompt(self, prompt: str) -> None:
        if prompt == "bad":
            raise ValueError("prompt: bad")


def stamp(ns: int):
    return TYPES.types["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)


def header(ns: int):
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp(ns), frame_id="")


def image(ns: int, value: int):
    pixels = np.full(24 * 32 * 3, value % 256, np.uint8)
    return TYPES.types["sensor_msgs/msg/Image"](header(ns), 24, 32, "rgb8", 0, 96, pixels)


def joint_state(ns: int, values: np.ndarray, names: list[str]):
    none = np.zeros(0)
    return TYPES.types["sensor_msgs/msg/JointState"](header(ns), list(reversed(names)), values[::-1].copy(), none, none)


def trajectory(ns: int, values: np.ndarray, names: list[str], after: int):
    """One point `after` ns from its stamp."""
    none = np.zeros(0)
    duration = TYPES.types["builtin_interfaces/msg/Duration"](after // 10**9, after % 10**9)
    point = TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"](values, none, none, none, duration)
    return TYPES.types["trajectory_msgs/msg/JointTrajectory"](header(ns), list(names), [point])


def array(values: np.ndarray):
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    return TYPES.types["std_msgs/msg/Float64MultiArray"](layout, values)


def messages(names: list[str], duration: float, commands: str, camera_starts=(0.0, 0.0, 0.0)):
    """(topic, type, receive time ns, message), in order: what a recorder of the robot 'sim' would get."""
    rows = []
    for k, slot in enumerate(SLOTS):
        for i in range(int(camera_starts[k] * CAMERA_HZ), int(duration * CAMERA_HZ)):
            at = BEGIN + i * 10**9 // CAMERA_HZ + k * 2_000_000
            rows.append((f"/cameras/{slot}/image_raw", "sensor_msgs/msg/Image", at + 5_000_000, image(at, i + k)))
    for i in range(int(duration * STATE_HZ)):
        at = BEGIN + i * 10**9 // STATE_HZ
        values = motion(i / STATE_HZ - 0.1)  # the arm is 0.1 s behind
        rows.append(("/joint_states", "sensor_msgs/msg/JointState", at + 1_000_000, joint_state(at, values, names)))
    for i in range(int(duration * COMMAND_HZ)):
        at = BEGIN + i * 10**9 // COMMAND_HZ
        if commands == "joint_trajectory":
            after = 10**9 // COMMAND_HZ  # reached when the next one comes
            message = trajectory(at, motion((i + 1) / COMMAND_HZ), names, after)
            rows.append(("/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", at, message))
        elif commands == "commands":
            rows.append(("/commands", "std_msgs/msg/Float64MultiArray", at, array(motion(i / COMMAND_HZ))))
    return sorted(rows, key=lambda row: row[2])


def write_bag(
    path: Path, rows, storage: str = "mcap", compression: str = "none", counts=(), padding: bytes = b""
) -> Path:
    """counts: further topics without messages, (topic, type). padding: bytes behind every message."""
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression != "none":
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind in counts:
            connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
        for topic, kind, received, message in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(connections[topic], received, bytes(TYPES.serialize_cdr(message, kind)) + padding)
    return path


def split(path: Path, parts: list[Path]) -> Path:
    """Bags that follow each other as one bag folder of several files, as ros2 bag record splits it."""
    import shutil

    import yaml

    path.mkdir()
    infos = [yaml.safe_load((p / "metadata.yaml").read_text())["rosbag2_bagfile_information"] for p in parts]
    whole = infos[0]
    names = []
    for k, (part, info) in enumerate(zip(parts, infos, strict=True)):
        source = part / info["relative_file_paths"][0]
        names.append(f"bag_{k}{source.suffix}")
        shutil.copy(source, path / names[-1])
    begin = min(i["starting_time"]["nanoseconds_since_epoch"] for i in infos)
    end = max(i["starting_time"]["nanoseconds_since_epoch"] + i["duration"]["nanoseconds"] for i in infos)
    whole["relative_file_paths"] = names
    whole["files"] = []
    whole["starting_time"]["nanoseconds_since_epoch"] = begin
    whole["duration"]["nanoseconds"] = end - begin
    whole["message_count"] = sum(i["message_count"] for i in infos)
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": whole}))
    return path


def text(value: str):
    return SimpleNamespace(data=value)
