# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Between two flow steps: the velocity leaves the expert, x_t moves, and new action tokens enter. All in fp32.

    def turn_reference(x, x_t, norm, out_w, out_b, in_w, in_b):       # x [H, W], x_t [H, A]
        v = norm(x) @ out_w.T + out_b                                 # norm weights, −dt folded into out_w, out_b
        x_t = x_t + v
        return x_t, x_t @ in_w.T + in_b                               # π0: silu of it, and one more matrix product

One program per action token: its row of x, then its 32 numbers, then its new row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import EPS, chain
from pi_vla_ros.kernels.linear import Stats


@triton.jit
def turn_kernel(
    x, x_t, velocity_w, velocity_b, action_w, action_b, scale, rows_x, rows_h, sums,
    T, rows_stride,
    STATE: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, A: tl.constexpr, AP: tl.constexpr, BW: tl.constexpr,
    LEAVE: tl.constexpr, ENTER: tl.constexpr, ADAPTIVE: tl.constexpr, SILU: tl.constexpr,
    PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    token = tl.program_id(0)  # of the batch's B·H actions
    row = token if STATE == 0 else token // (T - STATE) * T + STATE + token % (T - STATE)
    a = tl.arange(0, AP)
    moved = tl.load(x_t + token * A + a, mask=a < A, other=0.0)
    if LEAVE:
        v = tl.zeros((AP,), dtype=tl.float32)
        square = 0.0
        for first in range(0, WP, BW):
            w = first + tl.arange(0, BW)
            value = tl.load(x + row * W + w, mask=w < W, other=0.0)
            square += tl.sum(value * value)
            m = tl.load(velocity_w + a[:, None] * W + w[None, :], mask=(a < A)[:, None] & (w < W)[None, :], other=0.0)
            v += tl.sum(m * value[None, :], axis=1)
        moved += v * tl.rsqrt(square / W + EPS) + tl.load(velocity_b + a, mask=a < A, other=0.0)
        tl.store(x_t + token * A + a, moved, mask=a < A)
    if ENTER:
        square = 0.0
        for first in range(0, WP, BW):
            w = first + tl.arange(0, BW)
            m = tl.load(action_w + w[:, None] * A + a[None, :], mask=(w < W)[:, None] & (a < A)[None, :], other=0.0)
            y = tl.sum(m * moved[None, :], axis=1) + tl.load(action_b + w, mask=w < W, other=0.0)
            if SILU:
                y *= tl.sigmoid(y)
            tl.store(rows_x + row * W + w, y, mask=w < W)
            if ADAPTIVE:
                square += tl.sum(tl.where(w < W, y * y, 0.0))
                y *= 1.0 + tl.load(scale + w, mask=w < W, other=0.0)
                tl.store(rows_h + row * W + w, y.to(rows_h.dtype.element_ty), mask=w < W)
        if ADAPTIVE:
            part = tl.arange(0, PARTS_POW2)  # the whole sum in the first part
            first_only = tl.where(part == 0, square, 0.0)
            tl.store(sums + part * rows_stride + row, first_only, mask=part < PARTS)


def turn(
    x_t: Tensor, *, pdl: bool, tokens: int, state: int = 0,
    leave: tuple[Tensor, Tensor, Tensor] | None = None, enter: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    stats: Stats | None = None, scale: Tensor | None = None, silu: bool = False,
) -> None:  # fmt: skip
    """x_t [B·H, A] in place. leave: x, velocity weight [A, W], bias [A]; enter: rows x, h, action weight [W, A], bias;
    h = x · (1 + scale) and Σx² only where there is a `scale` (π0.5; π0 has one more product to go).

    tokens: rows of x per robot, `state` (0 or 1) of them before the actions.
    """
    width = (leave or enter)[0].shape[1]
    a = x_t.shape[1]
    x, out_w, out_b = leave or (None, None, None)
    rows_x, rows_h, in_w, in_b = enter or (None, None, None, None)
    parts, rows_max = stats.buffer.shape if stats else (1, 0)
    block = min(256, triton.next_power_of_2(width))
    turn_kernel[(len(x_t),)](
        x, x_t, out_w, out_b, in_w, in_b, scale, rows_x, rows_h, stats and stats.buffer,
        tokens, rows_max,
        state, width, triton.cdiv(width, block) * block, a, triton.next_power_of_2(a), block,
        leave is not None, enter is not None, scale is not None, silu,
        parts, triton.next_power_of_2(parts), pdl, num_warps=8, launch_pdl=pdl,
    )  # fmt: skip
