# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Between two flow steps: the velocity leaves the expert, x_t moves, and new action tokens enter. All in fp32.

    def turn_reference(x, x_t, norm, out_w, out_b, in_w, in_b):       # x [H, W], x_t [H, A]
        move = norm(x) @ out_w.T + out_b                              # norm weights, −dt folded into out_w, out_b
        move = guided(move, x_t)                                      # real-time chunking, see below
        x_t = held(x_t + move)
        return x_t, x_t @ in_w.T + in_b                               # π0: silu of it, and one more matrix product

Real-time chunking (model/rtc.py) is part of the step, its inputs are read from memory at every replay:

    def guided(move, x_t):      # at flow time t, N steps; move is −v/N. weights [H] of 0: move, to the last bit
        return move + min(strength(t), most) / N * weights * (target - (x_t + t * N * move))

    def held(x_t):              # delay of 0: x_t
        return where(arange(H) < delay, target, x_t)

One program per action token: its row of x, then its 32 numbers, then its new row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import EPS, chain
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance, strength


@triton.jit
def turn_kernel(
    x, x_t, velocity_w, velocity_b, action_w, action_b, scale, rows_x, rows_h, sums,
    target, weights, most, delay, time, strength, steps,
    T, rows_stride,
    STATE: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, A: tl.constexpr, AP: tl.constexpr, BW: tl.constexpr,
    LEAVE: tl.constexpr, ENTER: tl.constexpr, ADAPTIVE: tl.constexpr, SILU: tl.constexpr,
    GUIDED: tl.constexpr, HELD: tl.constexpr,
    PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    token = tl.program_id(0)  # of the batch's B·H actions
    robot, action = token // (T - STATE), token % (T - STATE)
    row = robot * T + STATE + action
    a = tl.arange(0, AP)
    moved = tl.load(x_t + token * A + a, mask=a < A, other=0.0)
    if GUIDED or HELD:
        wanted = tl.load(target + token * A + a, mask=a < A, other=0.0)
    if LEAVE:
        v = tl.zeros((AP,), dtype=tl.float32)
        square = 0.0
        for first in range(0, WP, BW):
            w = first + tl.arange(0, BW)
            value = tl.load(x + row * W + w, mask=w < W, other=0.0)
            square += tl.sum(value * value)
            m = tl.load(velocity_w + a[:, None] * W + w[None, :], mask=(a < A)[:, None] & (w < W)[None, :], other=0.0)
            v += tl.sum(m * value[None, :], axis=1)
        move = v * tl.rsqrt(square / W + EPS) + tl.load(velocity_b + a, mask=a < A, other=0.0)
        if GUIDED:
            pull = tl.minimum(strength, tl.load(most + robot)) / steps * tl.load(weights + token)
            move += pull * (wanted - (moved + time * steps * move))
        moved += move
    if HELD:
        held = action < tl.load(delay + robot)
        moved = tl.where(held, wanted, moved)
    if LEAVE or HELD:
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
                modulation = scale
                if HELD:
                    modulation += tl.where(held, W, 0)
                y *= 1.0 + tl.load(modulation + w, mask=w < W, other=0.0)
                tl.store(rows_h + row * W + w, y.to(rows_h.dtype.element_ty), mask=w < W)
        if ADAPTIVE:
            part = tl.arange(0, PARTS_POW2)  # the whole sum in the first part
            first_only = tl.where(part == 0, square, 0.0)
            tl.store(sums + part * rows_stride + row, first_only, mask=part < PARTS)


def turn(
    x_t: Tensor, *, pdl: bool, tokens: int, state: int = 0,
    leave: tuple[Tensor, Tensor, Tensor] | None = None, enter: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    stats: Stats | None = None, scale: Tensor | None = None, silu: bool = False,
    rtc: Chunking | None = None, time: float = 0.0, steps: int = 1,
) -> None:  # fmt: skip
    """x_t [B·H, A] in place. leave: x, velocity weight [A, W], bias [A]; enter: rows x, h, action weight [W, A], bias;
    h = x · (1 + scale) and Σx² only where there is a `scale` (π0.5; π0 has one more product to go).

    tokens: rows of x per robot, `state` (0 or 1) of them before the actions. rtc: real-time chunking with tensors on
    the device (delay int32) and `time` of the velocity that leaves, of `steps`; with committed actions `scale` is [2, W]:
    at the time that enters, and at 0.
    """
    width = (leave or enter)[0].shape[1]
    a = x_t.shape[1]
    x, out_w, out_b = leave or (None, None, None)
    rows_x, rows_h, in_w, in_b = enter or (None, None, None, None)
    parts, rows_max = stats.buffer.shape if stats else (1, 0)
    block = min(256, triton.next_power_of_2(width))
    guidance, committed = (rtc if isinstance(rtc, kind) else None for kind in (Guidance, Committed))
    turn_kernel[(len(x_t),)](
        x, x_t, out_w, out_b, in_w, in_b, scale, rows_x, rows_h, stats and stats.buffer,
        rtc and rtc.target, guidance and guidance.weights, guidance and guidance.most, committed and committed.delay,
        time, strength(time), float(steps),
        tokens, rows_max,
        state, width, triton.cdiv(width, block) * block, a, triton.next_power_of_2(a), block,
        leave is not None, enter is not None, scale is not None, silu, guidance is not None, committed is not None,
        parts, triton.next_power_of_2(parts), pdl, num_warps=8, launch_pdl=pdl,
    )  # fmt: skip
