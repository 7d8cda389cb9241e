# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Camera frames -> what the vision tower sees: resized with padding to a square, [-1, 1], channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# 'pil':       Pillow's antialiased bilinear on uint8: what openpi trains and serves with.
# 'fast':      the same within one grey level, eight times faster; where a GPU resizes, the same.
# 'lerobot':   no antialiasing, in [0, 1], black padding: LeRobot since 0.5.
# 'lerobot04': the same, but LeRobot 0.4 padded before it mapped to [-1, 1], so its padding became
# -3.
Resize = Literal["pil", "fast", "lerobot", "lerobot04"]
RESIZES: tuple[Resize, ...] = ("pil", "fast", "lerobot", "lerobot04")

BLACK = -1.0
PADDING: dict[Resize, float] = {"pil": BLACK, "fast": BLACK, "lerobot": BLACK, "lerobot04": -3.0}


def fit(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where a frame lies in the square, pixels: height and width resized to, top and left."""
    ratio = max(width / size, height / size)
    h, w = max(1, int(height / ratio)), max(1, int(width / ratio))
    return h, w, (size - h) // 2, (size - w) // 2


def check_frame(image: np.ndarray, name: str) -> None:
    """Raises ValueError naming what is not a camera frame."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name}: must be a NumPy array, is {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"{name}: must be (height, width, 3) uint8 RGB, is {image.shape} {image.dtype}")


def image_tensor(image: np.ndarray, size: int, resize: Resize = "fast") -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, size, size) float32 in [-1, 1]; not resampled if both are `size`."""
    check_frame(image, "image")
    if image.shape[:2] == (size, size):
        return _from_uint8(image)
    h, w, top, left = fit(*image.shape[:2], size)
    if resize in ("pil", "fast"):
        square = np.zeros((size, size, 3), np.uint8)
        square[top : top + h, left : left + w] = (_pil if resize == "pil" else _fast)(image, h, w)
        return _from_uint8(square)
    frame = _channels_first(image).float() / 255.0
    frame = F.interpolate(frame, size=(h, w), mode="bilinear", align_corners=False).clamp(0.0, 1.0) * 2.0 - 1.0
    return F.pad(frame[0], (left, size - w - left, top, size - h - top), value=PADDING[resize])


def square_images(frames: Sequence[Sequence[np.ndarray | None]], size: int, resize: Resize) -> Tensor:
    """Frames of B robots' C cameras, None where one is not there -> (B, C, 3, size, size) float32 in [-1, 1]."""
    return torch.stack([
        torch.stack([missing_image(size) if f is None else image_tensor(f, size, resize) for f in robot])
        for robot in frames
    ])  # fmt: skip


def missing_image(size: int) -> Tensor:
    """What stands in the slot of a camera that is not there (its mask is False): black."""
    return torch.full((3, size, size), BLACK)


def _pil(image: np.ndarray, h: int, w: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))


def _fast(image: np.ndarray, h: int, w: int) -> np.ndarray:
    frame = _channels_first(image)
    frame = F.interpolate(frame, size=(h, w), mode="bilinear", align_corners=False, antialias=True)
    return frame[0].permute(1, 2, 0).numpy()


def _channels_first(image: np.ndarray) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), a view where torch allows one (frames in message buffers are read-only)."""
    if not image.flags.writeable or min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def _from_uint8(image: np.ndarray) -> Tensor:
    return (_channels_first(image)[0].float() / 255.0 * 2.0 - 1.0).contiguous()
