# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Resizing: exact against Pillow, fast against Pillow, LeRobot against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pi_vla_ros.processing.images import fit, image_tensor, missing_image


def picture(height, width, seed=0):
    """A detailed image: gradients, edges and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / k + y / (k + 3)) for k in (2, 7, 31)], axis=-1)
    return np.clip(127 + 100 * waves + random.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)


def test_where_the_frame_lies():
    assert fit(480, 640, 224) == (168, 224, 28, 0)
    assert fit(640, 480, 224) == (224, 168, 0, 28)
    assert fit(720, 1280, 224) == (126, 224, 49, 0)
    assert fit(100, 301, 224) == (74, 224, 75, 0)
    assert fit(1, 5000, 56)[0] == 1  # however flat, a line remains


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (100, 301), (64, 48), (30, 30)])
def test_pil_is_pillow(size):
    image = picture(*size)
    h, w, top, left = fit(*size, 224)
    canvas = Image.new("RGB", (224, 224))
    canvas.paste(Image.fromarray(image).resize((w, h), resample=Image.BILINEAR), (left, top))
    expected = np.asarray(canvas).astype(np.float32) / 255 * 2 - 1
    assert np.array_equal(image_tensor(image, 224, "pil").permute(1, 2, 0).numpy(), expected)


LEVEL = 2 / 255


@pytest.mark.parametrize("height, width", [(480, 640), (720, 1280), (240, 320), (640, 480), (100, 301)])
@pytest.mark.parametrize("size", [56, 224])
def test_fast_is_within_one_level_of_pillow(height, width, size):
    image = picture(height, width)
    difference = image_tensor(image, size, "fast") - image_tensor(image, size, "pil")
    assert difference.abs().max() <= 1.001 * LEVEL


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
@settings(deadline=None)
def test_fast_is_close_to_pillow_for_any_image(height, width, seed):
    """Two levels happen, in about one pixel of a thousand images."""
    image = picture(height, width, seed)
    difference = (image_tensor(image, 56, "fast") - image_tensor(image, 56, "pil")).abs()
    assert difference.max() <= 2.001 * LEVEL
    assert (difference > 1.001 * LEVEL).sum() <= 2


@pytest.mark.parametrize("resize, padding", [("lerobot", -1.0), ("lerobot04", -3.0)])
def test_lerobot_does_not_antialias_and_04_pads_with_minus_three(resize, padding):
    image = picture(480, 640)
    ours = image_tensor(image, 224, resize)
    frame = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    inside = torch.nn.functional.interpolate(frame, size=(168, 224), mode="bilinear", align_corners=False) * 2 - 1
    assert torch.equal(ours[:, 28:196], inside[0])
    assert (ours[:, :28] == padding).all() and (ours[:, 196:] == padding).all()
    assert (ours - image_tensor(image, 224, "pil"))[:, 28:196].abs().max() > 20 * 2 / 255  # as the spec warns


@pytest.mark.parametrize("resize", ["pil", "fast", "lerobot", "lerobot04"])
def test_an_image_of_the_right_size_is_only_scaled(resize):
    image = picture(56, 56)
    out = image_tensor(image, 56, resize)
    assert out.dtype == torch.float32 and out.is_contiguous()
    assert torch.equal(out, torch.from_numpy(image).permute(2, 0, 1).float() / 255 * 2 - 1)


def test_views_and_read_only_frames_are_taken():
    image = picture(48, 64)
    flipped = image[:, ::-1]
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(image_tensor(frozen, 56), image_tensor(image, 56))
    assert torch.equal(image_tensor(flipped, 56), image_tensor(flipped.copy(), 56))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="image: must be"):
        image_tensor(image, 56)


def test_a_missing_camera_is_black():
    assert torch.equal(missing_image(8), torch.full((3, 8, 8), -1.0))
