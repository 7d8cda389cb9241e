# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Attention of the vision tower on Hopper (image_attention.cu): kernels/vision_attention.py's vision_attention_reference for
images of 256 tokens and heads of 72."""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.kernels.cuda import kernel, mma, tensor_map

TOKENS, WIDTH = 256, 72
SHARED = 2 * (128 + 2 * TOKENS) * 128 + 2048


def image_attention(qkv_map: bytes, images: int, heads: int, out: Tensor, *, pdl: bool) -> None:
    """qkv_map: `map_of` qkv [≥ images · 256, 3 · heads · 72] -> out [≥ images · 256, heads · 72], its columns as
    `held(heads)` says."""
    run = kernel("image_attention", (), (mma(256), mma(WIDTH, "regs", transposed=True)), SHARED)
    run(2 * images * heads, 384, [qkv_map, out, heads], pdl)


def held(heads: int) -> Tensor:
    """The column of attention that each column of `out` holds: the eight of 32 that a thread has are side by side."""
    columns = torch.arange(heads * WIDTH).view(heads, WIDTH)
    columns[:, :64] = columns[:, :64].view(heads, 2, 4, 4, 2).transpose(2, 3).reshape(heads, 64)
    return columns.flatten()


def map_of(qkv: Tensor) -> bytes:
    return tensor_map(qkv, 128)
