# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the simulated robot sends, as ROS messages."""

from __future__ import annotations

import array
import io
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image, JointState

JPEG_QUALITY = 90


def to_time(stamp: float) -> Time:
    """s, ROS clock -> message."""
    nanoseconds = round(stamp * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def to_image(stamp: float, frame: str, pixels: np.ndarray) -> Image:
    """pixels: (height, width, 3) uint8 RGB."""
    message = Image()
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.height, message.width = pixels.shape[:2]
    message.encoding, message.step = "rgb8", pixels.shape[1] * 3
    message.data = array.array("B", pixels.tobytes())  # rclpy checks no byte of it
    return message


def to_jpeg(stamp: float, frame: str, pixels: np.ndarray) -> CompressedImage:
    """pixels: (height, width, 3) uint8 RGB."""
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")  # as image_transport writes it
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = array.array("B", buffer.getvalue())
    return message


def to_joint_state(stamp: float, names: Sequence[str], positions: np.ndarray, velocities: np.ndarray) -> JointState:
    """Vectors are in the order of `names`."""
    message = JointState(name=list(names))
    message.header.stamp = to_time(stamp)
    message.position = array.array("d", positions.tobytes())
    message.velocity = array.array("d", velocities.tobytes())
    return message
