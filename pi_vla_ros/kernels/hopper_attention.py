# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Attention of the prefix stack on Hopper (hopper_attention.cu): kernels/attention.py's attention_reference for one robot,
256 dimensions, keys and values in chunks (kernels/flow_loop.py)."""

from __future__ import annotations

from torch import Tensor

from pi_vla_ros.kernels.cuda import kernel, mma, tensor_map


def chunk_attention(q_map: bytes, rows: int, keys: Tensor, values: Tensor, out: Tensor, lengths: Tensor,
                    ready: Tensor | None = None, *, pdl: bool) -> None:  # fmt: skip
    """q_map: `queries_map` of q; rows: of q and out [rows, 256] that count; keys, values [chunks, 64 · 256]; lengths [≥ 1].

    ready [1] int32: counted up as soon as keys and values are there, for a kernel that runs beside this one."""
    run = kernel("hopper_attention", (), (mma(64), mma(256, "regs", transposed=True)))
    run(2 * -(-rows // 128), 384, [q_map, keys, values, out, lengths, rows, ready], pdl)


def queries_map(q: Tensor) -> bytes:
    """q [rows, 256]"""
    return tensor_map(q, 64)
