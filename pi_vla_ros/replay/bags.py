# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3, MCAP; compressed, split) as a source. Streamed: one message in memory at a time."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pi_vla_ros.replay.source import NANO, Commands, Event, SourceError
from pi_vla_ros.robot import RobotConfig

STORAGE = (".mcap", ".db3")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STATE, TEXT = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
COMMANDS = {"joint_trajectory": "trajectory_msgs/msg/JointTrajectory", "commands": "std_msgs/msg/Float64MultiArray"}


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """Bags at these paths: a bag folder, a storage file, or a folder that holds either. Raises SourceError."""
    found = []
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path}: does not exist")
        here = [path] if _is_bag(path) else sorted(p for p in path.iterdir() if _is_bag(p)) if path.is_dir() else []
        if not here:
            raise SourceError(f"{path}: no bag: neither metadata.yaml nor {' nor '.join(STORAGE)} files")
        found += here
    return found


def resolve(topic: str, namespace: str = "") -> str:
    """A topic as ROS resolves it for a node in `namespace`."""
    return topic if topic.startswith("/") else "/" + "/".join(part for part in (namespace.strip("/"), topic) if part)


class BagSource:
    """One bag. Topics are checked when it is made; messages are read by `events`."""

    def __init__(self, path: Path, robot: RobotConfig, namespace: str = "", start: float = 0.0, duration: float = 0.0):
        """start, duration: s from the bag's beginning; a duration of 0 means to its end. Raises SourceError."""
        self.name, self._path, self._namespace = str(path), path, namespace
        with self._open() as reader:
            if not reader.message_count:
                raise SourceError(f"{path}: holds no message")
            types = {c.topic: c.msgtype for c in reader.connections if c.msgcount}
            self.start = reader.start_time + round(start * NANO)
            self.end = reader.end_time
        if self.start >= self.end:
            length = (self.end + round(start * NANO) - self.start) / NANO
            raise SourceError(f"{path}: --start {start} s lies behind its end; it is {length:.1f} s long")
        if duration:
            self.end = min(self.end, self.start + round(duration * NANO))
        self._wanted = self._topics(robot, types)
        self.commands = self._choose_commands(robot, types)

    def events(self) -> Iterator[Event]:
        """In the order of the bag's receive times, which only a badly merged bag turns back: then time stands."""
        with self._open() as reader:
            store = self._types(reader)
            for received, connection, data in self._read(reader):
                try:
                    message = _deserialise(store, data, connection.msgtype)
                except Exception as error:
                    raise self._damaged(received, connection.topic, error) from error
                for kind, slot in self._wanted[connection.topic]:
                    yield Event(received, kind, slot, message)

    def serialised(self) -> Iterator[tuple[int, str, str, bytes]]:
        """The same messages as they were recorded: (received ns, topic, type, CDR)."""
        with self._open() as reader:
            for received, connection, data in self._read(reader):
                yield received, connection.topic, connection.msgtype, data

    def topics(self) -> dict[str, str]:
        """What is read, topic -> type."""
        with self._open() as reader:
            return {c.topic: c.msgtype for c in reader.connections if c.topic in self._wanted}

    def _read(self, reader: Reader):
        time, topic = self.start, ""
        connections = [c for c in reader.connections if c.topic in self._wanted]
        try:
            for connection, received, data in reader.messages(connections, self.start, self.end):
                time, topic = max(time, received), connection.topic
                yield time, connection, data
        except Exception as error:  # rosbags, zstd, lz4 and SQLite each raise their own
            raise self._damaged(time, topic, error) from error

    def _damaged(self, time: int, topic: str, error: Exception) -> SourceError:
        at = f"{(time - self.start) / NANO:.1f} s after its start"
        last = f"; last topic read: {topic}" if topic else ""
        return SourceError(f"{self.name}: damaged {at}{last} ({_first_line(error)}); {_RECOVER}")

    def _open(self) -> Reader:
        try:
            reader = Reader(self._path)
            reader.open()
            reader.close()
            return Reader(self._path)
        except Exception as error:
            raise SourceError(f"{self._path}: cannot be opened ({_first_line(error)}); {_RECOVER}") from error

    def _types(self, reader: Reader):
        """The standard messages, and what only the bag knows."""
        store = get_typestore(Stores.ROS2_JAZZY)
        for connection in reader.connections:
            if connection.topic in self._wanted and connection.msgtype not in store.fielddefs:
                text, name = connection.msgdef.data, connection.msgtype
                idl = connection.msgdef.format is MessageDefinitionFormat.IDL
                store.register(get_types_from_idl(text) if idl else get_types_from_msg(text, name))
        return store

    def _topics(self, robot: RobotConfig, types: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
        """topic -> what its messages are."""
        wanted: dict[str, list[tuple[str, str]]] = {}
        for slot, camera in robot.cameras.items():
            kind = IMAGE if camera.transport == "raw" else COMPRESSED
            topic = self._checked(camera.topic, kind, types, f"camera {slot}")
            wanted.setdefault(topic, []).append(("image", slot))
        wanted[self._checked("joint_states", STATE, types, "joint states")] = [("state", "")]
        prompt = resolve("pi_vla_ros/prompt", self._namespace)
        if types.get(prompt) == TEXT:
            wanted[prompt] = [("prompt", "")]
        return wanted

    def _choose_commands(self, robot: RobotConfig, types: dict[str, str]) -> Commands:
        """What the demonstration commanded: as the robot file says, else what the bag has."""
        asked, named = robot.replay.commands, robot.replay.topic
        if asked == "auto":
            fitting = (k for k, kind in COMMANDS.items() if types.get(resolve(named or k, self._namespace)) == kind)
            asked = next(fitting, "")
        if not asked:
            raise SourceError(
                f"{self.name}: no commands: neither joint_trajectory nor commands"
                f"{f' nor {named}' if named else ''} is in the bag, which has {_listed(types)}. Name their topic "
                "(--commands-topic, replay.topic), or compare with the measured motion: --commands joint_states"
            )
        if asked == "joint_states":
            self._wanted[resolve("joint_states", self._namespace)].append(("command", ""))
        else:
            topic = self._checked(named or asked, COMMANDS[asked], types, "commands")
            self._wanted.setdefault(topic, []).append(("command", ""))
        return asked

    def _checked(self, topic: str, kind: str, types: dict[str, str], what: str) -> str:
        topic = resolve(topic, self._namespace)
        if topic not in types:
            alike = [t for t, k in types.items() if k == kind] or difflib.get_close_matches(topic, types, n=3)
            hint = f"; of that type it has {', '.join(sorted(alike))}" if alike else f"; it has {_listed(types)}"
            raise SourceError(f"{self.name}: no messages on {topic} ({what}, {kind}){hint}")
        if types[topic] != kind:
            raise SourceError(f"{self.name}: {topic} ({what}) is {types[topic]}; the robot file says {kind}")
        return topic


_RECOVER = "truncated, or still being recorded? 'ros2 bag reindex' or 'mcap recover' may save it"


def _deserialise(store: Typestore, data: bytes, kind: str):
    """As store.deserialize_cdr, but bytes behind the message are let pass: rclpy's serialize_message leaves some."""
    if len(data) < 4 or data[0] or data[1] > 1:
        raise ValueError("not plain CDR")
    definition = store.get_msgdef(kind)
    read = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    return read(data[4:], 0, definition.cls, store)[0]


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() if path.is_dir() else path.suffix in STORAGE


def _listed(types: dict[str, str]) -> str:
    return ", ".join(sorted(types)) or "no topic with messages"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
