# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Image messages -> RGB frames; duck-typed, so live (rclpy) and recorded (rosbags) alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

# encoding -> (channels, conversion to RGB)
_PLAIN = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MANY = 4  # cores from which on frames are decoded side by side and early
HELPERS = 3
helpers = ThreadPoolExecutor(HELPERS, "decode")  # its threads begin with the first frame that they decode
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


class FrameError(ValueError):
    """An image message cannot be read; the message says what is wrong with it and what helps."""


Empty = Callable[[int, int], np.ndarray]  # (height, width) -> (height, width, 3) uint8 to be written


def ordinary(height: int, width: int) -> np.ndarray:
    """The Empty of who has no better memory."""
    return np.empty((height, width, 3), np.uint8)


def decode(message: Any, empty: Empty = ordinary) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage -> (height, width, 3) uint8 RGB.

    rgb8 without row padding is a read-only view of the message's buffer; everything else is copied
    once, into what `empty` gives (`Policy.empty_frame`: then the GPU reads it there).
    """
    return decode_raw(message, empty) if hasattr(message, "encoding") else decode_compressed(message, empty)


def decode_all(messages: Mapping[str, Any], empty: Empty = ordinary) -> dict[str, np.ndarray]:
    """`decode` of each; compressed ones side by side where there are cores for it beside the node's other work.

    `empty` is called from several threads."""
    compressed = [slot for slot, m in messages.items() if not hasattr(m, "encoding")]
    others = compressed[1:] if CORES >= MANY else []  # one for this thread
    asked = {slot: helpers.submit(decode, messages[slot], empty) for slot in others}
    return {slot: asked[slot].result() if slot in asked else decode(m, empty) for slot, m in messages.items()}


def decode_raw(message: Any, empty: Empty = ordinary) -> np.ndarray:
    """sensor_msgs/Image (encoding, height, width, step, data) -> (height, width, 3) uint8 RGB."""
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding.lower() not in _PLAIN:
        return _through_cv_bridge(message)
    channels, conversion = _PLAIN[encoding.lower()]
    row = width * channels
    if height < 1 or width < 1 or step < row:
        raise FrameError(f"{encoding} image of {width} x {height} with step {step}: step must be at least {row}")
    data = _buffer(message.data)
    if len(data) < (height - 1) * step + row:
        raise FrameError(f"{encoding} image of {width} x {height} is truncated: {len(data)} bytes of {height * step}")
    frame = np.lib.stride_tricks.as_strided(data, (height, width, channels), (step, channels, 1), writeable=False)
    return frame if conversion is None else cv2.cvtColor(frame, conversion, dst=empty(height, width))


def decode_compressed(message: Any, empty: Empty = ordinary) -> np.ndarray:
    """sensor_msgs/CompressedImage (format, data), JPEG or PNG -> (height, width, 3) uint8 RGB."""
    data = _buffer(message.data)
    start, end = (
        data[:8].tobytes(),
        data[-64:].tobytes().rstrip(b"\0"),
    )  # some cameras fill their buffer with zeros
    if "compressedDepth" in message.format or not start.startswith((_JPEG, _PNG)):
        raise FrameError(f"compressed image of format '{message.format}': allowed: JPEG or PNG colour images")
    # OpenCV fills the missing part of a truncated JPEG with grey and only prints a warning
    whole = end.endswith(_JPEG_END) if start.startswith(_JPEG) else _PNG_END in end
    frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if whole else None
    if frame is None:
        raise FrameError(f"compressed image of format '{message.format}' is truncated or damaged ({len(data)} bytes)")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=empty(*frame.shape[:2]))


def _buffer(data: Any) -> np.ndarray:
    """bytes, array.array or uint8 array -> (n,) uint8, without copying."""
    return (
        np.asarray(data, np.uint8).reshape(-1)
        if isinstance(data, (np.ndarray, list))
        else np.frombuffer(data, np.uint8)
    )


def _through_cv_bridge(message: Any) -> np.ndarray:
    """The rare encodings (Bayer, YUV, 16 bit), which cv_bridge knows."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise FrameError(
            f"image encoding '{message.encoding}' needs cv_bridge: install python3-cv-bridge (ROS), or let "
            f"the camera driver publish one of {', '.join(_PLAIN)}"
        ) from error
    try:
        return CvBridge().imgmsg_to_cv2(message, "rgb8")
    except Exception as error:  # cv_bridge raises its own, OpenCV's and Python's errors
        raise FrameError(f"image encoding '{message.encoding}': {error}") from error
