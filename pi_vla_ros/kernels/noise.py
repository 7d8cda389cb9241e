# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Noise for the flow loop, drawn on the GPU: what a robot gets depends on its own key alone.

    def noise_reference(keys, scale, count):            # keys [B, 4]: drawn, seed, stream, draw
        for b, (drawn, seed, stream, draw) in enumerate(keys):
            if drawn: x_t[b] = scale[b] * [normal(philox(seed, (i, stream, draw, 0))) for i in range(count)]

Philox 4x32-10: the seed is its key, the other three its counter; Box-Muller of the first two words is the number.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain


@triton.jit
def noise_kernel(x_t, keys, scale, count, BLOCK: tl.constexpr, PDL: tl.constexpr):
    chain(PDL)
    robot = tl.program_id(0)
    key = keys + robot * 4
    if tl.load(key) != 0:
        i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        word = i.to(tl.uint32)
        stream, draw = tl.load(key + 2).to(tl.uint32), tl.load(key + 3).to(tl.uint32)
        a, b, _, _ = tl.philox(tl.load(key + 1), word, word * 0 + stream, word * 0 + draw, word * 0)
        normal, _ = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(a), tl.uint_to_uniform_float(b))
        tl.store(x_t + robot * count + i, normal * tl.load(scale + robot), mask=i < count)


def draw(x_t: Tensor, keys: Tensor, scale: Tensor, *, pdl: bool) -> None:
    """x_t [B, H, A] fp32, overwritten for robots whose key says so; keys [B, 4] int64, scale [B] fp32."""
    count, block = x_t[0].numel(), 256
    noise_kernel[(len(x_t), triton.cdiv(count, block))](
        x_t, keys, scale, count, block, pdl, num_warps=4, launch_pdl=pdl
    )
