# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of a Gemma layer: norm, projection, rotary embedding and the write into the K/V cache.

    def qkv_reference(x, w, cos, sin, heads, bias):                  # x [T, W], w [(heads + 2) · D, W], bias [N] or 0
        y = x @ w.T * rsqrt(mean(x²) + eps) + bias
        q, k, v = y.unflatten(-1, (heads + 2, -1)).split([heads, 1, 1], dim=1)
        turn = lambda z: stack([z[..., 0::2] * cos - z[..., 1::2] * sin, z[..., 1::2] * cos + z[..., 0::2] * sin], -1)
        return turn(q).flatten(-2), turn(k).flatten(-2), v

The model rotates element i against i + D/2. Here the rows of w are packed so that such pairs stand side by side (in
q and k alike, so that q · k does not change): both halves of a pair then lie in one thread's registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from pi_vla_ros.kernels.common import chain, of_rows, prefetch
from pi_vla_ros.kernels.linear import Stats, Tile, normalised, product, tile_of


def paired(w: Tensor, head_dim: int) -> Tensor:
    """Rows of w [heads · D, K] reordered within each head: 0, D/2, 1, D/2 + 1, ..."""
    return w.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


@triton.jit
def qkv_kernel(
    x_desc, w_desc, bias, delay, sums, cos, sin, start, q, keys, values,
    M, N, K, T, key_rows, rows_stride, ahead,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr,
    START: tl.constexpr, BIAS: tl.constexpr, HELD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PDL: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    if AHEAD > 0:
        prefetch(ahead, tl.program_id(0), tl.num_programs(0), AHEAD)
    chain(PDL)
    pm, pn = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    acc = product(x_desc, w_desc, pm * BM, pn * BN, tl.cdiv(K, BK), BM, BN, BK)
    rows = pm * BM + tl.arange(0, BM)
    cols = pn * BN + tl.arange(0, BN)
    y = normalised(acc, sums, rows, rows_stride, WIDTH, PARTS, PARTS_POW2, True)
    if HELD:
        y += of_rows(bias, delay, rows, cols, M, N, T)
    elif BIAS:
        y += tl.load(bias + cols, mask=cols < N, other=0.0)[None, :]

    # row r is token `place` of robot `robot`; its own keys follow those that are there already
    robot, place = rows // T, rows % T
    if START:
        place += tl.load(start + robot, mask=rows < M, other=0)
    live = (rows < M)[:, None]
    slot = (robot * key_rows + place)[:, None] * D + (cols % D)[None, :]
    if pn * BN < (H + 1) * D:  # some queries or keys; values are not rotated
        pair = pn * (BN // 2) + tl.arange(0, BN // 2)
        turns = live & (pair < (H + 1) * (D // 2))[None, :]
        at = place[:, None] * (D // 2) + (pair % (D // 2))[None, :]
        c = tl.load(cos + at, mask=turns, other=1.0)
        s = tl.load(sin + at, mask=turns, other=0.0)
        y1, y2 = tl.split(tl.reshape(y, (BM, BN // 2, 2)))
        z = tl.reshape(tl.join(y1 * c - y2 * s, y2 * c + y1 * s), (BM, BN)).to(q.dtype.element_ty)
        if pn * BN < H * D:
            tl.store(q + rows[:, None] * (H * D) + cols[None, :], z, mask=live & (cols < H * D)[None, :])
        if (pn + 1) * BN > H * D:
            tl.store(keys + slot, z, mask=live & ((cols >= H * D) & (cols < (H + 1) * D))[None, :])
    if (pn + 1) * BN > (H + 1) * D:
        z = y.to(q.dtype.element_ty)
        tl.store(values + slot, z, mask=live & ((cols >= (H + 1) * D) & (cols < N))[None, :])


def qkv(
    x: Tensor, w: Tensor, stats: Stats, rope: tuple[Tensor, Tensor], q: Tensor, keys: Tensor, values: Tensor,
    tokens: int, tile: Tile, *, pdl: bool, start: Tensor | None = None, bias: Tensor | None = None,
    delay: Tensor | None = None, ahead: Tensor | None = None,
) -> None:  # fmt: skip
    """x [B·tokens, W] -> q [B·tokens, H·D] and rows of keys, values [B, key_rows, D] from `start` [B] (or 0) on;
    with `delay` [B], `bias` is [2, N]: of the others, of a robot's first delay[b] rows."""
    (m, k), n, d = x.shape, w.shape[0], keys.shape[-1]
    qkv_kernel[(triton.cdiv(m, tile.bm) * triton.cdiv(n, tile.bn),)](
        TensorDescriptor.from_tensor(x, [tile.bm, tile.bk]), TensorDescriptor.from_tensor(w, [tile.bn, tile.bk]),
        bias, delay, stats.buffer, *rope, start, q, keys, values,
        m, n, k, tokens, keys.shape[-2], stats.buffer.shape[1], ahead,
        n // d - 2, d, stats.width, stats.parts, triton.next_power_of_2(stats.parts),
        start is not None, bias is not None, delay is not None,
        tile.bm, tile.bn, tile.bk, 8, pdl, ahead.nbytes if pdl and ahead is not None else 0,
        num_warps=tile.warps, num_stages=tile.stages, launch_pdl=pdl,
    )  # fmt: skip


def rope_tables(positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of position · base^(−2i/D): two [positions, D/2] fp32 tensors."""
    from pi_vla_ros.model.gemma import rope_table

    at = torch.arange(positions, device=device)[None]
    cos, sin = rope_table(at, head_dim, torch.float32)
    return cos[0, 0].contiguous(), sin[0, 0].contiguous()
