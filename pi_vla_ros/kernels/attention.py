# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Attention of many query heads over one key/value head; heads are folded into rows.

    def attention_reference(q, k, v, lengths):          # q [B, T·H, D], k, v [B, K, D]; scale D^-0.5
        seen = arange(K) < lengths[:, None, None]
        return softmax((q @ k.mT * D ** -0.5).masked_fill(~seen, -inf)) @ v

With few queries (the expert) the keys are cut in pieces, one program each, and a second kernel joins the pieces:
each piece leaves its own normalised answer and the logarithm of its weight.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain, prefetch

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def keys_seen(acc, most, total, q, keys, values, first, length, rows, D: tl.constexpr, DP: tl.constexpr,
              BK: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr, H: tl.constexpr, own):  # fmt: skip
    """One block of keys folded into the running softmax (most: running maximum, total: running sum)."""
    key = first + tl.arange(0, BK)
    d = tl.arange(0, DP)
    at = key[:, None] * D + d[None, :]
    if MASKED:
        some = (key < length)[:, None] & (d < D)[None, :]
        k, v = tl.load(keys + at, mask=some, other=0.0), tl.load(values + at, mask=some, other=0.0)
    elif DP == D:
        k, v = tl.load(keys + at), tl.load(values + at)
    else:
        some = (d < D)[None, :]
        k, v = tl.load(keys + at, mask=some, other=0.0), tl.load(values + at, mask=some, other=0.0)
    score = tl.dot(q, k.T) * (D**-0.5 * LOG2E)
    if MASKED:
        seen = (key < length)[None, :]
        if STATE:  # the state, the first of the own tokens, does not see the actions behind it
            seen = seen & ((rows >= H)[:, None] | (key <= own)[None, :])
        score = tl.where(seen, score, float("-inf"))
    new = tl.maximum(most, tl.max(score, axis=1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(score - safe[:, None])
    shrink = tl.exp2(most - safe)
    total = total * shrink + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return acc, new, total


@triton.jit
def attention_kernel(
    q, keys, values, out, lengths, rows_per_robot, key_rows,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    robot = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    some = (rows < rows_per_robot)[:, None] & (d < D)[None, :]
    at = (robot * rows_per_robot + rows)[:, None] * D + d[None, :]
    query = tl.load(q + at, mask=some, other=0.0)
    keys += robot * key_rows * D
    values += robot * key_rows * D
    length = tl.load(lengths + robot)
    acc = tl.zeros((BM, DP), dtype=tl.float32)
    most = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    whole = length // BK * BK
    for first in range(0, whole, BK):
        acc, most, total = keys_seen(acc, most, total, query, keys, values, first, length, rows, D, DP, BK,
                                     False, False, 1, 0)  # fmt: skip
    if whole < length:
        acc, most, total = keys_seen(acc, most, total, query, keys, values, whole, length, rows, D, DP, BK,
                                     True, False, 1, 0)  # fmt: skip
    tl.store(out + at, (acc / total[:, None]).to(out.dtype.element_ty), mask=some)


def attention(q: Tensor, keys: Tensor, values: Tensor, out: Tensor, lengths: Tensor, *, bm: int, bk: int,
              stages: int, warps: int, pdl: bool) -> None:  # fmt: skip
    """q, out [B, T·H, D]; keys, values [B, key_rows, D]; lengths [B] int32: keys that count."""
    b, rows, d = q.shape
    attention_kernel[(triton.cdiv(rows, bm), b)](
        q, keys, values, out, lengths, rows, keys.shape[1],
        d, max(16, triton.next_power_of_2(d)), bm, bk, pdl, num_warps=warps, num_stages=stages, launch_pdl=pdl,
    )  # fmt: skip


@triton.jit
def split_kernel(
    q, keys, values, answers, weights, starts, rows_per_robot, key_rows, tokens, ahead,
    H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BLOCKS: tl.constexpr,
    STATE: tl.constexpr, PDL: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """answers [pieces, B·rows, D], weights [pieces, B·rows] fp32: log2 of the piece's sum of exponentials."""
    tile, piece, robot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if AHEAD > 0:
        programs = tl.num_programs(0) * tl.num_programs(1)
        prefetch(ahead, robot * programs + piece * tl.num_programs(0) + tile, programs * tl.num_programs(2), AHEAD)
    chain(PDL)
    rows = tile * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    some = (rows < rows_per_robot)[:, None] & (d < D)[None, :]
    at = (robot * rows_per_robot + rows)[:, None] * D + d[None, :]
    query = tl.load(q + at, mask=some, other=0.0)
    start = tl.load(starts + robot)
    length = start + tokens
    keys += robot * key_rows * D
    values += robot * key_rows * D
    acc = tl.zeros((BM, DP), dtype=tl.float32)
    most = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    for i in tl.static_range(BLOCKS):
        acc, most, total = keys_seen(acc, most, total, query, keys, values, (piece * BLOCKS + i) * BK, length, rows,
                                     D, DP, BK, True, STATE, H, start)  # fmt: skip
    offset = piece * tl.num_programs(2) * rows_per_robot
    full = tl.maximum(total, 1e-30)  # a piece that sees no key answers 0 with weight 0
    tl.store(answers + offset * D + at, (acc / full[:, None]).to(answers.dtype.element_ty), mask=some)
    weight = tl.where(total > 0.0, most + tl.log2(full), float("-inf"))
    tl.store(weights + offset + robot * rows_per_robot + rows, weight, mask=rows < rows_per_robot)


@triton.jit
def join_kernel(
    answers, weights, out, rows, ahead,
    PIECES: tl.constexpr, PIECES_POW2: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr,
    PDL: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    if AHEAD > 0:
        prefetch(ahead, tl.program_id(0), tl.num_programs(0), AHEAD)
    chain(PDL)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    piece = tl.arange(0, PIECES_POW2)
    d = tl.arange(0, DP)
    w = tl.load(weights + piece[:, None] * rows + row[None, :],
                mask=(piece < PIECES)[:, None] & (row < rows)[None, :], other=float("-inf"))  # fmt: skip
    some = (row < rows)[:, None] & (d < D)[None, :]
    most = tl.max(w, axis=0)
    norm = 1.0 / tl.sum(tl.exp2(w - most[None, :]), axis=0)
    acc = tl.zeros((BM, DP), dtype=tl.float32)
    for i in tl.static_range(PIECES):
        wi = tl.load(weights + i * rows + row, mask=row < rows, other=float("-inf"))
        a = tl.load(answers + (i * rows + row)[:, None] * D + d[None, :], mask=some, other=0.0).to(tl.float32)
        acc += a * (tl.exp2(wi - most) * norm)[:, None]
    tl.store(out + row[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=some)


def split_attention(
    q: Tensor, keys: Tensor, values: Tensor, out: Tensor, starts: Tensor, heads: int, longest: int,
    answers: Tensor, weights: Tensor, *, bm: int, bk: int, blocks: int, warps: int, join_rows: int, state: bool,
    pdl: bool, ahead: Tensor | None = None,
) -> None:  # fmt: skip
    """q, out [B, T·H, D]; keys, values [B, key_rows, D] with T own ones from starts [B] on; longest: most keys."""
    b, rows, d = q.shape
    dp = max(16, triton.next_power_of_2(d))
    pieces = triton.cdiv(longest, bk * blocks)
    nbytes = ahead.nbytes if pdl and ahead is not None else 0
    split_kernel[(triton.cdiv(rows, bm), pieces, b)](
        q, keys, values, answers, weights, starts, rows, keys.shape[1], rows // heads, ahead,
        heads, d, dp, bm, bk, blocks, state, pdl, nbytes, num_warps=warps, num_stages=1, launch_pdl=pdl,
    )  # fmt: skip
    join_kernel[(triton.cdiv(b * rows, join_rows),)](
        answers, weights, out, b * rows, None,
        pieces, triton.next_power_of_2(pieces), d, dp, join_rows, pdl, 0, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
