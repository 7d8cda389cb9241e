# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The four products of an expert layer for several robots' tokens on Hopper (expert_linear.cu): what qkv.py, residual.py and
linear.py do, with the same weights.

    expert_qkv       qkv_reference (qkv.py) into a cache, rows of keys and values from start[robot] on
    expert_residual  residual_reference (residual.py): gate, residual, input of the next norm, row sums
    expert_geglu     linear_reference (linear.py) with norm, bias and GeGLU; gate and up rows alternate

Rows behind M may hold anything. `delay` [B] (trained real-time chunking): tables are [2, N], of the others and of the first
delay[b] tokens of a robot.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pi_vla_ros.kernels.cuda import SHARED, kernel, mma, tensor_map
from pi_vla_ros.kernels.linear import Stats

MOST = 256  # tokens of all robots: one product of the tensor core has no more columns
QKV, RESIDUAL, GEGLU = range(3)  # epilogues, as in the .cu
WHOLE = 128  # tokens up to which a tile has all of them, else half
SUMMED = 64  # columns of x in a part of the row sums that expert_residual leaves


@dataclass(frozen=True)
class Cut:
    """tokens of a tile (eights), rows of W a program, programs that share a tile's depth."""

    tokens: int
    rows: int
    shares: int

    @property
    def stages(self) -> int:
        """Of the ring, beside parts of sums, what is known of tokens, their squares, barriers."""
        threads, groups = 2 * self.rows, -(-self.tokens // (8 * self.shares))
        parts = (self.shares - 1) * groups * threads * 16
        rest = 1024 + parts + 8 * self.tokens + self.rows // 16 * 8 * groups * 4 + 8
        return (SHARED - rest) // (128 * (self.rows + self.tokens) + 16)

    def programs(self, m: int, n: int) -> int:
        return -(-n // self.rows) * -(-m // self.tokens) * self.shares


def cut_for(epilogue: int, m: int) -> Cut:
    """What was fastest of all that are on an H200 at once (docs/engine/batching.md)."""
    pieces = 1 if m <= WHOLE else 2
    rows, shares = {QKV: (64 * pieces, 2), RESIDUAL: (64, 6 // pieces), GEGLU: (64 * pieces, 1)}[epilogue]
    return Cut(-(-m // (8 * pieces)) * 8, rows, shares)


def fits(robots: int, tokens: int, g) -> bool:
    """Whether these are for `robots` of `tokens` rows each and an expert of geometry g: several, of the published sizes."""
    return 2 <= robots <= MOST // tokens and (g.width, g.mlp, g.heads, g.head_dim) == (1024, 4096, 8, 256)


def begin(m: int, held: bool) -> None:
    """The compiler, in threads, on the kernels for m tokens."""
    for epilogue in QKV, RESIDUAL, GEGLU:
        built(epilogue, cut_for(epilogue, m), held)


def expert_qkv(x: Tensor, w: Tensor, stats: Stats, rope: tuple[Tensor, Tensor], q: Tensor, keys: Tensor, values: Tensor,
               tokens: int, *, pdl: bool, start: Tensor, bias: Tensor | None = None, delay: Tensor | None = None) -> None:  # fmt: skip
    """x [B·tokens, W] -> q [B·tokens, H·256] and rows of keys, values [B, key_rows, 256] from `start` [B] on."""
    _launch(QKV, x, w, pdl, sums=stats, table=bias, delay=delay, tokens=tokens, rope=rope, start=start, out=q,
            keys=keys, values=values)  # fmt: skip


def expert_residual(a: Tensor, w: Tensor, x: Tensor, h: Tensor, gate: Tensor | None, scale: Tensor | None, stats: Stats,
                    *, pdl: bool, delay: Tensor | None = None, tokens: int = 1) -> None:  # fmt: skip
    """x [M, N] fp32 += a [M, K] @ w [N, K]ᵀ · gate; h = x · (1 + scale); stats: a part for every 64 columns of x."""
    _launch(RESIDUAL, a, w, pdl, sums=stats, table=gate, scales=scale, delay=delay, tokens=tokens, out=h, x=x)


def expert_geglu(a: Tensor, w: Tensor, out: Tensor, stats: Stats, *, pdl: bool, bias: Tensor | None = None,
                 delay: Tensor | None = None, tokens: int = 1) -> None:  # fmt: skip
    """out [M, N / 2] of a [M, K] and w [N, K]."""
    _launch(GEGLU, a, w, pdl, sums=stats, table=bias, delay=delay, tokens=tokens, out=out)


def built(epilogue: int, cut: Cut, held: bool):
    """The kernel, compiled once a process; returns at once."""
    defines = {
        "EPILOGUE": epilogue, "WGS": cut.rows // 64, "T": cut.tokens, "MMA": f"mma{cut.tokens}", "SHARES": cut.shares,
        "STAGES": cut.stages, "HELD": int(held),
    }  # fmt: skip
    return kernel("expert_linear", tuple(defines.items()), (mma(cut.tokens),))


def _launch(epilogue: int, a: Tensor, w: Tensor, pdl: bool, *, sums: Stats, out: Tensor, tokens: int,
            table: Tensor | None = None, scales: Tensor | None = None, delay: Tensor | None = None,
            rope: tuple[Tensor | None, Tensor | None] = (None, None), start: Tensor | None = None,
            keys: Tensor | None = None, values: Tensor | None = None, x: Tensor | None = None) -> None:  # fmt: skip
    (m, k), n = a.shape, w.shape[0]
    cut = cut_for(epilogue, m)
    maps = tensor_map(a, cut.tokens), tensor_map(w, cut.rows)
    key_rows = keys.shape[-2] if keys is not None else 0
    built(epilogue, cut, delay is not None)(
        cut.programs(m, n), 2 * cut.rows + 64,
        [*maps, sums.buffer, sums.parts, sums.buffer.shape[1], table, scales, delay, tokens, *rope, start, out, keys,
         values, key_rows, x, m, n, k], pdl,
    )  # fmt: skip
