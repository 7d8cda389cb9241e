# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The end of a sub-block of the expert: projection, gate, residual, and the input of the next norm.

    def residual_reference(before, a, w, gate, scale):  # before [M, N] fp32, a [M, K], w [N, K], gate, scale [N] or 1, 0
        x = before + (a @ w.T) * gate
        return x, x * (1 + scale), x.square().sum(-1)   # the next product divides by the root mean square

Few rows leave most of the chip idle, so the inner axis is cut in `split` pieces. The pieces' programs leave partial
products in a workspace; the last to arrive adds them up, always in the same order, so that results repeat bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from pi_vla_ros.kernels.common import chain, of_rows, prefetch
from pi_vla_ros.kernels.linear import Stats, Tile


@triton.jit
def finish(acc, rows, cols, part, M, N, T, before, x, h, gate, scale, delay, sums, rows_stride,
           GATED: tl.constexpr, HELD: tl.constexpr):  # fmt: skip
    """x = before + acc · gate; h = x · (1 + scale); Σx² of these columns."""
    mask = (rows < M)[:, None] & (cols < N)[None, :]
    at = rows[:, None] * N + cols[None, :]
    if HELD:
        acc *= of_rows(gate, delay, rows, cols, M, N, T)
    elif GATED:
        acc *= tl.load(gate + cols, mask=cols < N, other=0.0)[None, :]
    y = tl.load(before + at, mask=mask, other=0.0) + acc
    tl.store(x + at, y, mask=mask)
    tl.store(sums + part * rows_stride + rows, tl.sum(y * y, axis=1), mask=rows < M)
    if HELD:
        y *= 1.0 + of_rows(scale, delay, rows, cols, M, N, T)
    elif GATED:
        y *= 1.0 + tl.load(scale + cols, mask=cols < N, other=0.0)[None, :]
    tl.store(h + at, y.to(h.dtype.element_ty), mask=mask)


@triton.jit
def residual_kernel(
    a_desc, w_desc, before, x, h, gate, scale, delay, sums, workspace, arrived,
    M, N, K, T, rows_stride, ahead,
    GATED: tl.constexpr, HELD: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    pn, pm, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if AHEAD > 0:
        programs = tl.num_programs(0) * tl.num_programs(1)
        prefetch(ahead, (piece * programs) + pm * tl.num_programs(0) + pn, programs * SPLIT, AHEAD)
    chain(PDL)
    steps = tl.cdiv(K, BK * SPLIT)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for i in range(steps):
        k = (piece * steps + i) * BK
        acc = tl.dot(a_desc.load([pm * BM, k]), w_desc.load([pn * BN, k]).T, acc)
    rows = pm * BM + tl.arange(0, BM)
    cols = pn * BN + tl.arange(0, BN)
    if SPLIT == 1:
        finish(acc, rows, cols, pn, M, N, T, before, x, h, gate, scale, delay, sums, rows_stride, GATED, HELD)
    else:
        own = pm * tl.num_programs(0) + pn
        at = (own * SPLIT * BM + tl.arange(0, BM)[:, None]) * BN + tl.arange(0, BN)[None, :]
        tl.store(workspace + at + piece * (BM * BN), acc)
        tl.debug_barrier()  # all of this program's part is written before it says so
        if tl.atomic_add(arrived + own, 1, sem="acq_rel", scope="gpu") == SPLIT - 1:
            total = tl.load(workspace + at, cache_modifier=".cg")
            for other in tl.static_range(1, SPLIT):
                total += tl.load(workspace + at + other * (BM * BN), cache_modifier=".cg")
            tl.store(arrived + own, 0)
            finish(total, rows, cols, pn, M, N, T, before, x, h, gate, scale, delay, sums, rows_stride, GATED, HELD)


def residual(
    a: Tensor, w: Tensor, x: Tensor, h: Tensor, gate: Tensor | None, scale: Tensor | None, stats: Stats,
    workspace: Tensor, arrived: Tensor, tile: Tile, *, pdl: bool, before: Tensor | None = None,
    ahead: Tensor | None = None, delay: Tensor | None = None, tokens: int = 1,
) -> None:  # fmt: skip
    """a [M, K], w [N, K]; x [M, N] fp32 = `before` (x itself if absent) + ...; h [M, N]; `arrived`: int32 zeros, one a tile, left as zeros.
    `delay` [B]: gate and scale are [2, N], of the others and of the first delay[b] of every `tokens` rows."""
    (m, k), n = a.shape, w.shape[0]
    residual_kernel[(triton.cdiv(n, tile.bn), triton.cdiv(m, tile.bm), tile.split)](
        TensorDescriptor.from_tensor(a, [tile.bm, tile.bk]), TensorDescriptor.from_tensor(w, [tile.bn, tile.bk]),
        x if before is None else before, x, h, gate, scale, delay, stats.buffer, workspace, arrived,
        m, n, k, tokens, stats.buffer.shape[1], ahead,
        gate is not None, delay is not None, tile.split, tile.bm, tile.bn, tile.bk, pdl,
        ahead.nbytes if pdl and ahead is not None else 0,
        num_warps=tile.warps, num_stages=tile.stages, launch_pdl=pdl,
    )  # fmt: skip
