# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Matrix product with everything around it fused: norm of the input, bias, GeGLU, residual, row sums.

    def linear_reference(a, w, norm=False, bias=0, geglu=False, residual=0):
        y = a @ w.T * (rsqrt(mean(a²) + eps) if norm else 1) + bias
        if geglu: y = gelu_tanh(y[:, 0::2]) * y[:, 1::2]     # gate and up rows of w alternate
        return residual + y

Norm weights are folded into `w` when the weights are packed.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from pi_vla_ros.kernels.common import EPS, chain, column_sums, gelu_tanh, of_rows, prefetch


@dataclass(frozen=True)
class Tile:
    """How a product is cut: output tile, depth of a step, steps in flight, warps, pieces along the inner axis."""

    bm: int = 128
    bn: int = 128
    bk: int = 64
    stages: int = 4
    warps: int = 8
    split: int = 1


@dataclass(frozen=True)
class Stats:
    """Σx² of the rows of a [rows, width] tensor in partial sums: [parts, rows] fp32."""

    buffer: Tensor
    width: int

    @property
    def parts(self) -> int:
        return len(self.buffer)


@triton.jit
def tile_of(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Tiles in an order that lets programs running side by side share rows of A and of W in the L2 cache."""
    per_group = GROUP * tiles_n
    group = tile // per_group
    first = group * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    return first + (tile % per_group) % size, (tile % per_group) // size


@triton.jit
def product(a_desc, w_desc, row, col, k_tiles, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """fp32 [BM, BN] of A[row:, :] @ W[col:, :]ᵀ; what lies outside A or W counts as 0."""
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(k_tiles):
        a = a_desc.load([row, k * BK])
        w = w_desc.load([col, k * BK])
        acc = tl.dot(a, w.T, acc)
    return acc


@triton.jit
def normalised(acc, sums, rows, rows_stride,
               WIDTH: tl.constexpr, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, NORM: tl.constexpr):  # fmt: skip
    """The norm of the input, applied to the product."""
    if NORM:
        square = column_sums(sums, rows, rows_stride, PARTS, PARTS_POW2) / WIDTH
        acc *= tl.rsqrt(square + EPS)[:, None]
    return acc


@triton.jit
def linear_kernel(
    a_desc, w_desc, out, bias, delay, residual, sums_in, sums_out,
    M, N, K, T, out_stride, residual_rows, in_rows, out_rows,
    image_rows, image_stride, ahead,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
    NORM: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr,
    BIAS: tl.constexpr, GEGLU: tl.constexpr, RESIDUAL: tl.constexpr, STATS: tl.constexpr, PDL: tl.constexpr,
    AHEAD: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    if AHEAD > 0:
        prefetch(ahead, tl.program_id(0), tl.num_programs(0), AHEAD)
    chain(PDL)
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    pm, pn = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    acc = product(a_desc, w_desc, pm * BM, pn * BN, tl.cdiv(K, BK), BM, BN, BK)

    rows = pm * BM + tl.arange(0, BM)
    cols = pn * BN + tl.arange(0, BN)
    y = normalised(acc, sums_in, rows, in_rows, WIDTH, PARTS, PARTS_POW2, NORM)
    if HELD:
        y += of_rows(bias, delay, rows, cols, M, N, T)
    elif BIAS:
        y += tl.load(bias + cols, mask=cols < N, other=0.0)[None, :]
    # row r of the product is row `to` of the output: images are laid out one per `image_rows`, apart by `image_stride`
    to = (rows // image_rows) * image_stride + rows % image_rows
    if GEGLU:
        gate, up = tl.split(tl.reshape(y, (BM, BN // 2, 2)))
        half = pn * (BN // 2) + tl.arange(0, BN // 2)
        mask = (rows < M)[:, None] & (half < N // 2)[None, :]
        z = gelu_tanh(gate) * up
        tl.store(out + to[:, None] * out_stride + half[None, :], z.to(out.dtype.element_ty), mask=mask)
    else:
        mask = (rows < M)[:, None] & (cols < N)[None, :]
        if RESIDUAL:
            y += tl.load(residual + (to % residual_rows)[:, None] * out_stride + cols[None, :], mask=mask, other=0.0)
        tl.store(out + to[:, None] * out_stride + cols[None, :], y.to(out.dtype.element_ty), mask=mask)
        if STATS:
            y = tl.where(mask, y, 0.0)
            tl.store(sums_out + pn * out_rows + to, tl.sum(y * y, axis=1), mask=rows < M)


def linear(
    a: Tensor, w: Tensor, out: Tensor, tile: Tile, *, pdl: bool,
    stats_in: Stats | None = None, bias: Tensor | None = None, geglu: bool = False,
    residual: Tensor | None = None, residual_rows: int = 1 << 30, stats_out: Stats | None = None,
    image_rows: int = 1 << 30, image_stride: int = 0, ahead: Tensor | None = None,
    delay: Tensor | None = None, tokens: int = 1,
) -> None:  # fmt: skip
    """a [M, K] @ w [N, K]ᵀ into `out`; `residual_rows`: the residual repeats after that many rows;
    `image_rows`, `image_stride`: every `image_rows` rows of the product start `image_stride` rows apart in `out`;
    `ahead`: weights of a later kernel, to be brought into the L2 cache meanwhile;
    `delay` [B]: `bias` is [2, N], of the others and of the first delay[b] of every `tokens` rows."""
    (m, k), n = a.shape, w.shape[0]
    parts = stats_in.parts if stats_in else 1
    rows_in, rows_out = (s.buffer.shape[1] if s else 0 for s in (stats_in, stats_out))
    linear_kernel[(triton.cdiv(m, tile.bm) * triton.cdiv(n, tile.bn),)](
        TensorDescriptor.from_tensor(a, [tile.bm, tile.bk]), TensorDescriptor.from_tensor(w, [tile.bn, tile.bk]),
        out, bias, delay, residual, stats_in and stats_in.buffer, stats_out and stats_out.buffer,
        m, n, k, tokens, out.stride(0), residual_rows, rows_in, rows_out, image_rows, image_stride, ahead,
        tile.bm, tile.bn, tile.bk, 8,
        stats_in is not None, stats_in.width if stats_in else 1, parts, triton.next_power_of_2(parts),
        bias is not None, geglu, residual is not None, stats_out is not None, pdl,
        ahead.nbytes if pdl and ahead is not None else 0, delay is not None,
        num_warps=tile.warps, num_stages=tile.stages, launch_pdl=pdl,
    )  # fmt: skip
