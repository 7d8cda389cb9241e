# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The prefix stack's products on Hopper (hopper_linear.cu). Each equals

    def geglu_linear_reference(x, gate, up):
        h = x * rsqrt(mean(x²) + eps)
        return gelu_tanh(h @ gate.T) * (h @ up.T)

    def residual_linear_reference(x, a, w):                 # and Σ of its rows' squares
        return x + a @ w.T

    def qkv_linear_reference(...):                          # kernels/qkv.py: qkv_reference

and reads weights whose rows `packed` or `packed_pair` has put in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vla_ros.kernels.cuda import SHARED, kernel, mma, tensor_map
from pi_vla_ros.kernels.linear import Stats

PAIRS = 64  # of programs at once on the chip: 66 fit, two are the expert's (kernels/flow_ahead.py)
GEGLU, RESIDUAL, QKV = range(3)


def rounds(m: int, n: int, width: int) -> int:
    """How often all programs take a tile of 128 × `width` for a product [m, n]."""
    return -(-(-(-m // 128) * (n // width // 2)) // PAIRS)


def qkv_width(m: int, n: int) -> int:
    """Columns of a tile for queries, keys and values: the width that leaves a program the least of them."""
    return min((160, 256), key=lambda width: width * rounds(m, n, width))


def packed(w: Tensor) -> Tensor:
    """w [N, K]: of 32 rows, a thread of the tensor core's result holds 2q, 2q + 1 of every 8; let these be 8 neighbours."""
    return w.unflatten(0, (-1, 4, 4, 2)).transpose(1, 2).flatten(0, 3)


def packed_pair(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [N, K] -> [2 N, K]: pairs (gate, up), 8 neighbouring ones in a thread."""
    pairs = torch.stack([gate, up], 1)  # [N, 2, K]
    return pairs.unflatten(0, (-1, 4, 8)).transpose(1, 2).flatten(0, 3)


@dataclass(frozen=True)
class Matrix:
    """A packed weight [N, K] and where the copy engine finds it. `width`: columns of a tile, 2 · width divides N."""

    w: Tensor
    width: int
    map: bytes

    @classmethod
    def of(cls, w: Tensor, width: int) -> Matrix:
        w = w.contiguous()
        return cls(w, width, tensor_map(w, width))

    def cut(self, width: int) -> Matrix:
        """The same memory in tiles of another width: packed rows suit every one."""
        return self if width == self.width else Matrix.of(self.w, width)


@dataclass(frozen=True)
class Rows:
    """Activations [M, K] and where the copy engine finds them."""

    a: Tensor
    map: bytes

    @classmethod
    def of(cls, a: Tensor) -> Rows:
        return cls(a, tensor_map(a, 64))


def _launch(epilogue: int, a: Rows, m: int, w: Matrix, out: Tensor | None, *, pdl: bool, x: Tensor | None = None,
            stats_in: Stats | None = None, stats_out: Stats | None = None, cache=(None, None), rope=(None, None),
            heads: int = 0, tokens: int = 1, cache_rows: int = 0, chunked: bool = False) -> None:  # fmt: skip
    n, k = w.w.shape
    clusters = min(-(-m // 128) * (n // w.width) // 2, PAIRS)
    defines = {"BN": w.width, "MMA": f"mma{w.width}", "HALF_MMA": f"mma{w.width // 2}",
               "STAGES": (SHARED - 2048) // ((128 + w.width) * 128), "PARTS": stats_in.parts if stats_in else 0,
               "EPILOGUE": epilogue, "CHUNKED": int(chunked)}  # fmt: skip
    run = kernel("hopper_linear", tuple(defines.items()), (mma(w.width), mma(w.width // 2)))
    run(
        2 * clusters, 384,
        [a.map, w.map, out, x, stats_in and stats_in.buffer, stats_out and stats_out.buffer, *cache, *rope, m, n, k,
         (stats_in or stats_out).buffer.shape[1], heads, tokens, cache_rows],
        pdl,
    )  # fmt: skip


def geglu_linear(x: Rows, m: int, w: Matrix, out: Tensor, stats: Stats, *, pdl: bool) -> None:
    """x [≥ m, K], w of gate and up [2 N, K] -> out [m, N]; stats: Σx² of the rows of x."""
    _launch(GEGLU, x, m, w, out, stats_in=stats, pdl=pdl)


def residual_linear(a: Rows, m: int, w: Matrix, x: Tensor, stats: Stats, *, pdl: bool) -> None:
    """x [m, N] += a [≥ m, K] @ w [N, K]ᵀ; stats: where Σx² of the result's rows goes, two parts a tile."""
    _launch(RESIDUAL, a, m, w, x, x=x, stats_out=stats, pdl=pdl)


def qkv_linear(x: Rows, m: int, w: Matrix, stats: Stats, rope: tuple[Tensor, Tensor], q: Tensor | None, keys: Tensor,
               values: Tensor, tokens: int, *, chunked: bool, pdl: bool) -> None:  # fmt: skip
    """x [≥ m, K] -> q [m, H · 256] and keys, values: [robots, rows, 256] or, chunked, [chunks, 64 · 256].

    w has H · 256 + 512 rows, or, when no `q` is asked for, 512; `tokens` of a robot."""
    heads = w.w.shape[0] // 256 - 2
    rows = keys.numel() // 256 if chunked else keys.shape[1]
    _launch(QKV, x, m, w, q, stats_in=stats, cache=(keys, values), rope=rope, heads=heads, tokens=tokens,
            cache_rows=rows, chunked=chunked, pdl=pdl)  # fmt: skip
