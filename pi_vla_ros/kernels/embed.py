# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What enters the two prefix stacks: patches of the images, the prompt's rows of the token embedding.

def patches_reference(images, patch):                            # [N, 3, S, S] -> [N · (S/p)², 3 · p²]
    if images.dtype == uint8:                                    # [N, S, S, 3], frames as they came
        images = images.permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
    return unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1)

def text_reference(words):                                       # [B, L, W], the embedding's rows as they are stored
    return words * sqrt(W)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain
from pi_vla_ros.kernels.linear import Stats


@triton.jit
def patches_kernel(
    images, out, out_stride, BYTES: tl.constexpr, S: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, PDL: tl.constexpr
):
    chain(PDL)
    token = tl.program_id(0)
    side: tl.constexpr = S // P
    image, y, x = token // (side * side), token // side % side, token % side
    i = tl.arange(0, BP)
    channel, dy, dx = i // (P * P), i // P % P, i % P
    row, column = y * P + dy, x * P + dx
    if BYTES:
        at = ((image * S + row) * S + column) * 3 + channel
        value = tl.load(images + at, mask=i < 3 * P * P, other=0).to(tl.float32) / 255.0 * 2.0 - 1.0
    else:
        at = ((image * 3 + channel) * S + row) * S + column
        value = tl.load(images + at, mask=i < 3 * P * P, other=0.0)
    tl.store(out + token * out_stride + i, value, mask=i < 3 * P * P)


def patches(images: Tensor, out: Tensor, patch: int, *, pdl: bool) -> None:
    """images [N, 3, S, S] fp32 in [-1, 1], or [N, S, S, 3] uint8 -> out [N · (S/patch)², ≥ 3 · patch²] fp32.

    Columns of `out` behind 3 · patch² stay as they are.
    """
    size = images.shape[2]
    patches_kernel[(len(out),)](
        images, out, out.stride(0), images.dtype == torch.uint8, size, patch, triton.next_power_of_2(3 * patch * patch), pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


@triton.jit
def text_kernel(
    words, out, sums, L, rows_per_robot, first_row, factor, rows_stride,
    W: tl.constexpr, WP: tl.constexpr, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    robot, place = tl.program_id(0) // L, tl.program_id(0) % L
    row = robot * rows_per_robot + first_row + place
    w = tl.arange(0, WP)
    y = tl.load(words + tl.program_id(0) * W + w, mask=w < W, other=0.0).to(tl.float32) * factor
    tl.store(out + row * W + w, y.to(out.dtype.element_ty), mask=w < W)
    part = tl.arange(0, PARTS_POW2)
    square = tl.where(part == 0, tl.sum(y * y), 0.0)
    tl.store(sums + part * rows_stride + row, square, mask=part < PARTS)


def text(words: Tensor, out: Tensor, rows_per_robot: int, first_row: int, stats: Stats, *, pdl: bool) -> None:
    """words [B, L, W] -> rows of `out` from first_row on in every robot's share of rows, and their sums."""
    b, length, width = words.shape
    text_kernel[(b * length,)](
        words, out, stats.buffer, length, rows_per_robot, first_row, width**0.5, stats.buffer.shape[1],
        width, triton.next_power_of_2(width), stats.parts, triton.next_power_of_2(stats.parts), pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
