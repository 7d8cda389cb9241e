# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SigLIP's attention: every token of an image sees every other, straight from the packed projections.

def vision_attention_reference(qkv, heads):                      # [N, T, 3 · heads · D] -> [N, T, heads · D]
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in qkv.chunk(3, -1))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.attention import LOG2E
from pi_vla_ros.kernels.common import chain


@triton.jit
def vision_attention_kernel(
    qkv, out, T,
    H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chain(PDL)
    tile, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows = tile * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    width = (d < D)[None, :]
    some = (rows < T)[:, None] & width
    base = qkv + image * T * (3 * H * D) + head * D
    q = tl.load(base + rows[:, None] * (3 * H * D) + d[None, :], mask=some, other=0.0)
    acc = tl.zeros((BM, DP), dtype=tl.float32)
    most = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    for first in range(0, T, BK):
        key = first + tl.arange(0, BK)
        at = key[:, None] * (3 * H * D) + d[None, :]
        seen = (key < T)[:, None] & width
        k = tl.load(base + H * D + at, mask=seen, other=0.0)
        v = tl.load(base + 2 * H * D + at, mask=seen, other=0.0)
        score = tl.where((key < T)[None, :], tl.dot(q, k.T) * (D**-0.5 * LOG2E), float("-inf"))
        new = tl.maximum(most, tl.max(score, axis=1))
        p = tl.exp2(score - new[:, None])
        shrink = tl.exp2(most - new)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        most = new
    at = (image * T + rows)[:, None] * (H * D) + head * D + d[None, :]
    tl.store(out + at, (acc / total[:, None]).to(out.dtype.element_ty), mask=some)


def vision_attention(qkv: Tensor, out: Tensor, tokens: int, heads: int, *, bm: int, bk: int, stages: int, warps: int,
                     pdl: bool) -> None:  # fmt: skip
    """qkv [N · tokens, 3 · heads · D] -> out [N · tokens, heads · D]."""
    d = out.shape[1] // heads
    vision_attention_kernel[(triton.cdiv(tokens, bm), heads, len(out) // tokens)](
        qkv, out, tokens, heads, d, max(16, triton.next_power_of_2(d)), bm, bk, pdl,
        num_warps=warps, num_stages=stages, launch_pdl=pdl,
    )  # fmt: skip
