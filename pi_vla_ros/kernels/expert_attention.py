# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Attention of several robots' expert tokens on Hopper (expert_attention.cu), 8 heads of 256 dimensions. It equals

    def expert_attention_reference(q, k, v, starts, state):   # q [B, T·8, 256], k, v [B, K, 256]
        key, token = arange(K), arange(T * 8)[:, None] // 8
        own = starts[:, None, None]
        seen = (key <= own) | (token > 0) if state else True  # π0's state token does not see the actions
        return softmax((q @ k.mT / 16).masked_fill(~(seen & (key < own + T)), -inf)) @ v

as split_attention (kernels/attention.py) does, in one launch."""

from __future__ import annotations

from torch import Tensor

from pi_vla_ros.kernels.cuda import kernel, mma, tensor_map

HEADS = 8
QUERIES, PROGRAMS = 64, 4  # rows of a cluster, and its programs: four robots' 28 clusters are on an H200 at once


def expert_attention(q: Tensor, keys: Tensor, values: Tensor, out: Tensor, starts: Tensor, *, state: bool,
                     pdl: bool) -> None:  # fmt: skip
    """q, out [B, T·8, 256]; keys, values [B, key_rows, 256] with T own ones from starts [B] on; behind those may be anything."""
    (robots, rows, _), key_rows = q.shape, keys.shape[1]
    defines = (("PROGRAMS", PROGRAMS), ("STATE", int(state)))
    run = kernel("expert_attention", defines, (mma(64), mma(256, "regs", transposed=True)))
    maps = (tensor_map(t.view(-1, 256), 64) for t in (q, keys, values))
    run(robots * -(-rows // QUERIES) * PROGRAMS, 384, [*maps, out, starts, rows // HEADS, key_rows], pdl)
