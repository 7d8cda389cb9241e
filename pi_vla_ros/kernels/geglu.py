# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What stands between the library's two products of a prefix layer's MLP, and behind the second.

def geglu_reference(y, x):                       # y = x @ [gate; up].T, not yet normalised; x [M, W]
    gate, up = (y * rsqrt(mean(x²) + eps)).chunk(2, dim=-1)
    return gelu_tanh(gate) * up

def row_sums_reference(x):
    return x.square().sum(-1)
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import EPS, chain, gelu_tanh
from pi_vla_ros.kernels.linear import Stats


@triton.jit
def geglu_kernel(
    y, out, sums, N, out_stride, rows_stride,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, BN: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    row, col = tl.program_id(1), tl.program_id(0) * BN + tl.arange(0, BN)
    part = tl.arange(0, PARTS_POW2)
    square = tl.sum(tl.load(sums + part * rows_stride + row, mask=part < PARTS, other=0.0))
    scale = tl.rsqrt(square / WIDTH + EPS)
    at = y + row * 2 * N + col
    gate = tl.load(at, mask=col < N, other=0.0).to(tl.float32) * scale
    up = tl.load(at + N, mask=col < N, other=0.0).to(tl.float32) * scale
    tl.store(out + row * out_stride + col, (gelu_tanh(gate) * up).to(out.dtype.element_ty), mask=col < N)


def geglu(y: Tensor, out: Tensor, stats: Stats, *, pdl: bool) -> None:
    """y [M, 2 · N] -> out [M, N] (columns of a wider tensor); stats: Σx² of the rows that y was made from."""
    m, n = out.shape
    block = min(2048, triton.next_power_of_2(n))
    geglu_kernel[(triton.cdiv(n, block), m)](
        y, out, stats.buffer, n, out.stride(0), stats.buffer.shape[1],
        stats.width, stats.parts, triton.next_power_of_2(stats.parts), block, pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


@triton.jit
def row_sums_kernel(x, sums, W: tl.constexpr, WP: tl.constexpr, PDL: tl.constexpr):
    chain(PDL)
    w = tl.arange(0, WP)
    value = tl.load(x + tl.program_id(0) * W + w, mask=w < W, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(0), tl.sum(value * value))


def row_sums(x: Tensor, stats: Stats, *, pdl: bool) -> None:
    """Σx² of the rows of x [M, W], in one part."""
    row_sums_kernel[(len(x),)](
        x, stats.buffer, x.shape[1], triton.next_power_of_2(x.shape[1]), pdl, num_warps=4, launch_pdl=pdl
    )
