# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The prefix stack's product onto the residual stream on Hopper with tokens as the tensor core's columns.

`residual_columns` (hopper_columns.cu) takes and leaves what hopper_linear.residual_linear does, the same weights in the
same memory among it.
"""

from __future__ import annotations

from torch import Tensor

from pi_vla_ros.kernels.cuda import SHARED, kernel, mma, tensor_map
from pi_vla_ros.kernels.hopper_linear import PAIRS, Matrix, Rows, rounds
from pi_vla_ros.kernels.linear import Stats

MOST = 192  # tokens in a tile: more than 208 do not fit into a thread's registers


def cut(m: int, n: int) -> tuple[int, int]:
    """Pairs of token tiles and tokens in a tile (eights, at least 64), for m tokens and n rows of weights: all programs
    at once on the chip, if the weights' tiles are not too many."""
    most = max(PAIRS // (n // 128), 1)
    tokens = max(-(-m // (16 * most)) * 8, 64)
    return -(-m // (2 * tokens)), tokens


def better_by_columns(m: int, n: int, k: int) -> bool:
    """Whether residual_columns, one round of programs, takes less time than residual_linear, whose tiles of 128 rows take
    as long for 776 rows as for 1024, and twice as long for 1032.

    Measured on an H200 (2026-11-22) with n = 2048, µs by rows and by columns:

        tokens a tile   k = 16384 (down)    k = 2048 (out)
        104             91-103   83-88      12.9   13.8
        128             93-103   96-107     13.3   16.1

    A round of rows costs what 120 tokens do, in a short product 96, and two rounds twice that: this and what more than
    128 tokens take is predicted, not measured. A short product that is one round was faster by rows."""
    some, tokens = rounds(m, n, 128), cut(m, n)[1]
    if tokens > MOST or (some == 1 and k <= 2048):
        return False
    return tokens < 120 * some if k > 2048 else tokens <= 96 * some


def stages(tokens: int) -> int:
    """Of the ring that a program's shared memory holds beside barriers and row sums."""
    return (SHARED - 1280 - 32 * tokens) // (128 * 128 + tokens * 128)


def residual_columns(a: Rows, m: int, w: Matrix, x: Tensor, stats: Stats, *, pdl: bool) -> None:
    """x [m, N] += a [≥ m, K] @ w [N, K]ᵀ; stats: where Σx² of the result's rows goes, a part for 64 columns.

    128 divides N, 64 divides K; a tile may have up to `MOST` tokens (`cut`)."""
    n, k = w.w.shape
    pairs, t = cut(m, n)
    if t > MOST:
        raise ValueError(f"{m} rows make tiles of {t} tokens; up to {MOST} fit: use residual_linear")
    run = kernel("hopper_columns", (("T", t), ("MMA", f"mma{t}"), ("STAGES", stages(t))), (mma(t),))
    maps = tensor_map(a.a[:m], t), tensor_map(w.w, 64)
    run(2 * pairs * (n // 128), 288, [*maps, x, stats.buffer, m, n, k, pairs, stats.buffer.shape[1]], pdl)
