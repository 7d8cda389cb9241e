# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Image messages of every kind, without ROS."""

import array
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.processing import frames
from pi_vla_ros.processing.frames import FrameError, decode, decode_all

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def raw(pixels, encoding, padding=0, kind=bytes):
    rows = pixels.reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, padding))).tobytes()
    data = {"bytes": data, "array": array.array("B", data), "numpy": np.frombuffer(data, np.uint8)}[kind]
    return SimpleNamespace(encoding=encoding, height=5, width=7, step=rows.shape[1] + padding, data=data)


@pytest.mark.parametrize("kind", ["bytes", "array", "numpy"])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., :1]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]])),
    ],
)
def test_colour(encoding, pixels, padding, kind):
    frame = decode(raw(np.ascontiguousarray(pixels), encoding, padding, kind))
    assert frame.shape == (5, 7, 3) and frame.dtype == np.uint8
    assert np.array_equal(frame, RGB)


def test_grey_becomes_three_equal_channels():
    assert np.array_equal(decode(raw(RGB[..., 0].copy(), "mono8", kind="bytes")), np.dstack([RGB[..., 0]] * 3))


def test_rgb_is_not_copied():
    message = raw(RGB, "rgb8", kind="numpy")
    frame = decode(message)
    assert np.shares_memory(frame, message.data) and not frame.flags.writeable


@pytest.mark.parametrize("kind", ["bgr8", "rgba8", "bgra8", "mono8", "png"])
def test_what_is_converted_is_written_where_the_reader_wants_it(kind):
    """Straight into the room that is given, which is all that is returned."""
    given = []

    def room(height, width):
        given.append(np.full((height, width, 3), 99, np.uint8))
        return given[-1]

    pixels = {"bgr8": RGB[..., ::-1], "rgba8": np.dstack([RGB, RGB[..., :1]]), "mono8": RGB[..., 0]}
    pixels["bgra8"] = np.dstack([RGB[..., ::-1], RGB[..., :1]])
    if kind == "png":
        message = SimpleNamespace(format="png", data=cv2.imencode(".png", RGB[..., ::-1])[1].tobytes())
    else:
        message = raw(np.ascontiguousarray(pixels[kind]), kind, kind="bytes")
    frame = decode(message, room)
    assert len(given) == 1 and np.shares_memory(frame, given[0])
    assert np.array_equal(given[0], np.dstack([RGB[..., 0]] * 3) if kind == "mono8" else RGB)


def test_a_missing_end_of_row_padding_is_fine():
    message = raw(RGB, "rgb8", padding=3, kind="bytes")
    message.data = message.data[:-3]
    assert np.array_equal(decode(message), RGB)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"data": b"\0" * 20}, "rgb8 image of 7 x 5 is truncated: 20 bytes of 105"),
        ({"step": 20}, "step must be at least 21"),
        ({"width": 0}, "step"),
        ({"height": 0}, "step"),
    ],
)
def test_inconsistent_messages_are_refused(change, words):
    message = raw(RGB, "rgb8", kind="bytes")
    vars(message).update(change)
    with pytest.raises(FrameError, match=words):
        decode(message)


def test_rare_encodings_need_cv_bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(FrameError, match="'bayer_rggb8' needs cv_bridge: install python3-cv-bridge"):
        decode(raw(RGB[..., 0].copy(), "bayer_rggb8", kind="bytes"))


def test_rare_encodings_go_through_cv_bridge(monkeypatch):
    bridge = SimpleNamespace(imgmsg_to_cv2=lambda message, encoding: RGB)
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=lambda: bridge))
    assert decode(raw(RGB[..., 0].copy(), "bayer_rggb8", kind="bytes")) is RGB
    bridge.imgmsg_to_cv2 = lambda *_: 1 / 0
    with pytest.raises(FrameError, match="image encoding 'bayer_rggb8': division"):
        decode(raw(RGB[..., 0].copy(), "bayer_rggb8", kind="bytes"))


def compressed(extension, form):
    big = cv2.resize(RGB, (70, 50), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(extension, cv2.cvtColor(big, cv2.COLOR_RGB2BGR))[1].tobytes()
    return SimpleNamespace(format=form, data=data), big


def test_png_and_jpeg():
    message, image = compressed(".png", "rgb8; png compressed bgr8")
    assert np.array_equal(decode(message), image)
    message, image = compressed(".jpg", "jpeg")
    frame = decode(message)
    assert frame.shape == image.shape and np.abs(frame.astype(int) - image).mean() < 12
    message.data += b"\0" * 8  # a camera that fills its buffer
    assert np.array_equal(decode(message), frame)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@given(share=st.floats(0.01, 0.97))
@settings(deadline=None)
def test_truncated_images_are_refused(extension, share):
    message, _ = compressed(extension, "x")
    message.data = message.data[: int(len(message.data) * share)]
    with pytest.raises(FrameError):
        decode(message)


@pytest.mark.parametrize("cores", [2, 16])
def test_frames_together_are_as_they_are_alone(cores, monkeypatch):
    monkeypatch.setattr(frames, "CORES", cores)
    packed = [compressed(".jpg", "jpeg")[0], *(compressed(".png", "png")[0] for _ in range(5))]
    messages = dict(enumerate([packed[0], raw(RGB, "rgb8", kind="bytes"), *packed[1:]]))
    together = decode_all(messages)
    assert list(together) == list(messages)
    assert all(np.array_equal(together[i], decode(m)) for i, m in messages.items())
    for i in (0, 2, 6):
        damaged = {**messages, i: SimpleNamespace(format="jpeg", data=b"\xff\xd8")}
        with pytest.raises(FrameError, match=r"damaged \(2 bytes\)"):
            decode_all(damaged)


@pytest.mark.parametrize(("cores", "threads"), [(3, 0), (4, 2)])
def test_with_few_cores_nobody_helps(cores, threads, monkeypatch):
    asked = []
    monkeypatch.setattr(frames, "CORES", cores)
    monkeypatch.setattr(
        frames,
        "helpers",
        SimpleNamespace(submit=lambda f, *a: asked.append(a) or SimpleNamespace(result=lambda: f(*a))),
    )
    decode_all({i: compressed(".png", "png")[0] for i in range(3)})
    assert len(asked) == threads


@pytest.mark.parametrize("data, form", [(b"", "jpeg"), (b"garbage", "jpeg"), (b"\x89PNG\r\n\x1a\nIEND", "png")])
def test_other_compressed_data_is_refused(data, form):
    with pytest.raises(FrameError, match="compressed image of format"):
        decode(SimpleNamespace(format=form, data=data))


def test_compressed_depth_is_refused():
    message, _ = compressed(".png", "16UC1; compressedDepth png")
    with pytest.raises(FrameError, match="compressedDepth"):
        decode(message)
