# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Camera frames of any size -> the square that the vision tower sees, as processing/images.py does it on the host.

    def resize_reference(frames, size, mode):             # frames: (H, W, 3) uint8; [N, 3, S, S] in [-1, 1]
        return torch.stack([image_tensor(frame, size, mode) for frame in frames])

Two passes, rows then columns, over tables of weights (processing/taps.py). Antialiased, the sums are Pillow's integers
and what lies between the passes is bytes: the result is Pillow's to the bit up to Pillow 12 (13 takes the columns first
where that is less work, which moves some bytes by one). Otherwise everything is fp32.

What an image is stands in its record, int32: kind (1 frame, 0 already an fp32 image), height and width, height and
width inside the square, top, left, weights a row pass and a column pass add up, and where in the block of bytes that
was uploaded its two tables (in int32) and its pixels (in bytes) lie. So one graph serves all sizes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain

FIELDS = 12


@triton.jit
def weighted(acc, weight, value, EXACT: tl.constexpr):
    if EXACT:
        more = weight * value.to(tl.int32)
    else:
        more = weight.to(tl.float32, bitcast=True) * value.to(tl.float32)
    return acc + more


@triton.jit
def level(acc, EXACT: tl.constexpr):
    """The sum of a pass as what is stored between and after them: a byte, or as it is."""
    if EXACT:
        stored = ((acc + (1 << 21)) >> 22).to(tl.uint8)
    else:
        stored = acc
    return stored


@triton.jit
def rows_kernel(records, ints, pixels, between, stride, EXACT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """[H, W, 3] -> [H, w, 3]"""
    chain(PDL)
    image = tl.program_id(0)
    record = records + image * 12
    height, width, w, taps = tl.load(record + 1), tl.load(record + 2), tl.load(record + 4), tl.load(record + 7)
    count = tl.load(record) * height * w * 3
    first = tl.program_id(1) * BLOCK
    if first < count:
        i = first + tl.arange(0, BLOCK)
        some = i < count
        y, x, channel = i // (w * 3), i // 3 % w, i % 3
        table = ints + tl.load(record + 9) + x
        source = pixels + tl.load(record + 11) + y * width * 3 + channel
        start = tl.load(table, mask=some, other=0)
        acc = tl.zeros((BLOCK,), dtype=tl.int32 if EXACT else tl.float32)
        for k in range(taps):
            weight = tl.load(table + (1 + k) * w, mask=some, other=0)
            value = tl.load(source + (start + k) * 3, mask=some & (start + k < width), other=0)
            acc = weighted(acc, weight, value, EXACT)
        tl.store(between + image * stride + i, level(acc, EXACT), mask=some)


@triton.jit
def columns_kernel(
    records, ints, floats, between, out, stride, padding,
    S: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """[H, w, 3] -> [3, S, S]: columns, padding, [-1, 1]"""
    chain(PDL)
    image = tl.program_id(0)
    record = records + image * 12
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    some = i < 3 * S * S
    if tl.load(record) == 0:
        y = tl.load(floats + tl.load(record + 11) // 4 + i, mask=some, other=0.0)
    else:
        height, h, w = tl.load(record + 1), tl.load(record + 3), tl.load(record + 4)
        channel, row, column = i // (S * S), i // S % S - tl.load(record + 5), i % S - tl.load(record + 6)
        inside = some & (row >= 0) & (row < h) & (column >= 0) & (column < w)
        table = ints + tl.load(record + 10) + row
        start = tl.load(table, mask=inside, other=0)
        acc = tl.zeros((BLOCK,), dtype=tl.int32 if EXACT else tl.float32)
        for k in range(tl.load(record + 8)):
            weight = tl.load(table + (1 + k) * h, mask=inside, other=0)
            at = image * stride + ((start + k) * w + column) * 3 + channel
            value = tl.load(between + at, mask=inside & (start + k < height), other=0)
            acc = weighted(acc, weight, value, EXACT)
        unit = tl.minimum(tl.maximum(level(acc, EXACT).to(tl.float32) / 255.0, 0.0), 1.0)
        y = tl.where(inside, unit * 2.0 - 1.0, padding)
    tl.store(out + image * (3 * S * S) + i, y, mask=some)


def resize(records: Tensor, block: Tensor, between: Tensor, out: Tensor, padding: float, *, pdl: bool) -> None:
    """records [N, FIELDS] int32, block [bytes] uint8 -> out [N, 3, S, S] fp32 in [-1, 1].

    between [≥ N, rows · S · 3]: uint8 adds up as Pillow does, fp32 as PyTorch; no frame may have more rows.
    """
    n, size = out.shape[0], out.shape[-1]
    stride, exact, tile = between.shape[1], between.element_size() == 1, 1024
    ints, floats = block.view(records.dtype), block.view(out.dtype)
    rows_kernel[(n, triton.cdiv(stride, tile))](
        records, ints, block, between, stride, exact, tile, pdl, num_warps=4, launch_pdl=pdl
    )
    columns_kernel[(n, triton.cdiv(3 * size * size, tile))](
        records, ints, floats, between, out, stride, padding, size, exact, tile, pdl, num_warps=4, launch_pdl=pdl
    )
