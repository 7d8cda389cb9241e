# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Serialised messages into an MCAP bag that `ros2 bag` and the replay read; no rosbag2 needed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from rclpy.qos import QoSProfile
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from pi_vla_ros.resources import package_file

OWN_MESSAGES = ("ActionChunk", "InferenceStatus")
_FOREVER = QosTime(9223372036, 854775807)


class Recorder:
    """Writes in a thread of its own: compressing must not keep messages waiting."""

    def __init__(self, path: Path):
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for name in OWN_MESSAGES:
            text = package_file(f"msg/{name}.msg").read_text(encoding="utf-8")
            self._types.register(get_types_from_msg(text, f"pi_vla_ros/msg/{name}"))
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def topic(self, name: str, kind: type, profile: QoSProfile) -> Callable[[float, bytes], None]:
        """Add a topic; returns what records a message: (receive time s, serialised message)."""
        package, _, _ = kind.__module__.partition(".")
        connection = self._writer.add_connection(
            name,
            f"{package}/msg/{kind.__name__}",
            typestore=self._types,
            offered_qos_profiles=[_qos(profile)],
        )
        return lambda now, message: self._queue.put((connection, round(now * 1e9), message))

    def close(self) -> None:
        """Write what is waiting and finish the bag."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._writer.write(*item)


def _qos(profile: QoSProfile) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        profile.depth,
        QosReliability(int(profile.reliability)),
        QosDurability(int(profile.durability)),
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
