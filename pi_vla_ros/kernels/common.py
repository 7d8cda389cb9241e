# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What several kernels share: launch chaining, weight prefetch, activations, row statistics.

Launch chaining (programmatic dependent launch, sm_90 and later): every kernel lets its successor start at once and
waits for its predecessor before it touches anything that a kernel wrote. *Every* kernel of a chain must wait: the
wait covers the direct predecessor only, and the ones before it through it.

Row sums: a kernel that writes the residual stream also writes, per tile of columns, each row's Σx². The next matrix
product adds these few numbers up and applies the RMSNorm to its *result*, so a norm is never a pass over memory of its
own: norm(x) @ Wᵀ = (x @ Wᵀ) / rms(x).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

EPS = tl.constexpr(1e-6)


def chained(device: torch.device) -> bool:
    """Whether kernels on `device` may be launched before their predecessors end."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


@triton.jit
def chain(PDL: tl.constexpr):
    """Successor may start; predecessor must have ended."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def prefetch(base, pid, programs, BYTES: tl.constexpr):
    """This program's share of the BYTES at `base` is asked into the L2 cache; returns at once."""
    lane = tl.arange(0, 128)
    share = tl.cdiv(BYTES, programs * 128 * 128) * 128  # per thread: whole cache lines
    start = (pid * 128 + lane) * share
    size = tl.minimum(BYTES - start, share)
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.gt.s32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [base.to(tl.pointer_type(tl.uint8)) + start, size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def gelu_tanh(x):
    """0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 x³))), through the sigmoid: 1 + tanh z = 2 σ(2z)."""
    return x * tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))


@triton.jit
def of_rows(table, delay, rows, cols, M, N, T):
    """[rows, cols] of a table [2, N] fp32: entry 1 where the row is a committed action (model/rtc.py), else entry 0.

    T rows a robot, of which the first delay[robot] are committed.
    """
    held = rows % T < tl.load(delay + rows // T, mask=rows < M, other=0)
    return tl.load(table + tl.where(held, N, 0)[:, None] + cols[None, :], mask=(cols < N)[None, :], other=0.0)


@triton.jit
def column_sums(partials, rows, stride, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr):
    """partials [PARTS, stride] fp32 -> the sum of each of `rows`."""
    part = tl.arange(0, PARTS_POW2)
    some = (part[:, None] < PARTS) & (rows[None, :] < stride)
    p = tl.load(partials + part[:, None] * stride + rows[None, :], mask=some, other=0.0)
    return tl.sum(p, axis=0)
