# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a resize adds up, one axis at a time: for every output pixel, where its inputs start and what each weighs.

A table is int32 [1 + K, out]: the row of starts, then K rows of weights, 0 where an output needs fewer inputs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BITS = 22  # of the fixed-point weights: 255 · 2²² leaves one bit of an int32


@lru_cache(maxsize=64)
def antialiased(size: int, out: int) -> np.ndarray:
    """Pillow's BILINEAR on bytes, to the bit: a triangle as wide as the scale, weights in fixed point (BITS)."""
    scale = size / out
    support = max(scale, 1.0)
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size)
    at = first + np.arange((last - first).max())[:, None]  # [K, out]
    weights = np.maximum(1.0 - np.abs((at - centre + 0.5) * (1.0 / support)), 0.0) * (at < last)
    total = np.zeros(out)
    for row in weights:  # in Pillow's order: the last bit of a sum counts
        total += row
    weights = (weights * (1.0 / total) * (1 << BITS) + 0.5).astype(np.int32)
    return np.vstack([first.astype(np.int32)[None], weights])


@lru_cache(maxsize=64)
def bilinear(size: int, out: int) -> np.ndarray:
    """PyTorch's bilinear without antialiasing (align_corners=False): two inputs; the bits of fp32 weights."""
    scale = np.float32(size) / np.float32(out)
    at = np.maximum(scale * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    first = np.minimum(at.astype(np.int32), size - 1)
    far = np.where(first < size - 1, at - first.astype(np.float32), np.float32(0)).astype(np.float32)
    return np.vstack([first[None], np.stack([np.float32(1) - far, far]).view(np.int32)])
