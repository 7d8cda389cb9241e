# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Resizing in the graph: Pillow's sums, LeRobot's within rounding; sizes that change, and too large ones."""

from __future__ import annotations

import os
import warnings

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.kernels.resize import FIELDS
from pi_vla_ros.processing.images import image_tensor

if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

LEVEL = 2 / 255
SIZES = [(48, 64), (96, 128), (9, 16), (64, 48), (28, 28), (37, 53), (61, 17), (28, 90), (1, 40)]


def pack(frames, images, records, block):
    images, places = frames.place(images, records, block)
    for image, (to, at) in zip(images, places, strict=True):
        assert to.ctypes.data == block.ctypes.data + at
        to[...] = image


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / k + y / (k + 3)) for k in (2, 7, 31)], axis=-1)
    return np.clip(127 + 100 * waves + random.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)


def resized(images, mode, size=28, largest=(96, 128)):
    frames = Frames(size, mode, largest, len(images), torch.device("cpu"))
    records, block = np.zeros((len(images), FIELDS), np.int32), np.full(frames.nbytes, 255, np.uint8)
    pack(frames, images, records, block)
    return frames.launch(torch.from_numpy(records), torch.from_numpy(block), len(images), False, pdl=False).clone()


def test_antialiased_is_pillow():
    """Down, up, portrait, exact, odd, flat; all in one launch. To the bit, or within one grey level where Pillow (13)
    takes the columns first."""
    images = [picture(*size) for size in SIZES]
    got = resized(images, "pil")
    for image, square in zip(images, got, strict=True):
        levels = ((square + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8).numpy()
        ratio = max(image.shape[1], image.shape[0]) / 28
        h, w = max(1, int(image.shape[0] / ratio)), max(1, int(image.shape[1] / ratio))
        canvas = Image.new("RGB", (28, 28))
        canvas.paste(Image.fromarray(image).resize((w, h), Image.BILINEAR), ((28 - w) // 2, (28 - h) // 2))
        most = int(int(PIL.__version__.split(".")[0]) >= 13)
        assert np.abs(levels.astype(int) - np.asarray(canvas)).max() <= most
        torch.testing.assert_close(square, image_tensor(image, 28, "pil"), atol=1e-6 + most * LEVEL, rtol=0)


@pytest.mark.parametrize("mode", ["lerobot", "lerobot04"])
def test_without_antialiasing_it_is_pytorch(mode):
    images = [picture(*size) for size in SIZES]
    for image, square in zip(images, resized(images, mode), strict=True):
        torch.testing.assert_close(square, image_tensor(image, 28, mode), atol=2e-6, rtol=0)


def test_views_and_images_that_are_resized_already():
    image = picture(40, 70)
    ready = image_tensor(image, 28, "pil").numpy()
    flipped, again = resized([image[:, ::-1], ready], "pil")
    torch.testing.assert_close(flipped, image_tensor(image[:, ::-1], 28, "pil"), atol=1.01 * LEVEL, rtol=0)
    assert torch.equal(again, torch.from_numpy(ready))


@pytest.mark.parametrize("size", [(97, 129), (10, 200)])
def test_a_frame_too_large_is_resized_on_the_host_and_told_once(size):
    frames = Frames(28, "pil", (96, 128), 2, torch.device("cpu"))
    records, block = np.zeros((2, FIELDS), np.int32), np.zeros(frames.nbytes, np.uint8)
    small, large = picture(48, 64), picture(*size)
    with pytest.warns(UserWarning, match=f"{size[1]} x {size[0]} is larger than 128 x 96") as told:
        pack(frames, [large, small], records, block)
        pack(frames, [large, large], records, block)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(frames, [small, large], records, block)
    got = frames.launch(torch.from_numpy(records), torch.from_numpy(block), 2, False, pdl=False)
    torch.testing.assert_close(got[1], image_tensor(large, 28, "pil"), atol=0, rtol=0)
    torch.testing.assert_close(got[0], image_tensor(small, 28, "pil"), atol=1.01 * LEVEL, rtol=0)
