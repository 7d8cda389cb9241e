# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision tower's products on Hopper (vision_linear.cu). With LN a LayerNorm of eps 1e-6, they equal

    def linear_reference(x, norm, w, b, gelu):                # weights: Product.of(w, b, tile, norm)
        y = LN(x, norm.weight, norm.bias) @ w.T + b
        return gelu_tanh(y) if gelu else y

    def add_linear_reference(x, a, w, b):                     # and the moments of its rows
        return x + a @ w.T + b

    def prefix_linear_reference(x, norm, w, b):               # in rows of the prefix stack, and Σ of their squares
        return LN(x, norm.weight, norm.bias) @ w.T + b

Moments are Σx and Σx² of rows of x [rows, width], in partial sums of some columns: [parts, rows, 2] fp32. A product that
writes x leaves them, one that reads it applies the norm to its result: no pass over x is the norm's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from pi_vla_ros.kernels.common import chain
from pi_vla_ros.kernels.cuda import SHARED, kernel, mma, tensor_map
from pi_vla_ros.kernels.hopper_linear import packed

PLAIN, GELU, RESIDUAL, PREFIX = range(4)
ROWS = 256  # of a cluster; numbers of rows are multiples
CLUSTERS = {1: 66, 2: 30}  # that are on the chip at once, by programs that share a tile's depth (H200)


@dataclass(frozen=True)
class Cut:
    """How a product is cut: columns of a tile, programs that share its depth, stages of the ring (at most what fits)."""

    width: int
    split: int = 1
    stages: int = 99


def cut_for(n: int, rows: int, *, sums: bool = False) -> Cut:
    """For a product [rows, n]: what takes the least columns one after the other, ends of a tile counted as 40. A product
    that leaves row sums has whole tiles of whole groups of 32 columns. Narrow tiles would wait for the L2 cache."""

    def columns(c: Cut) -> int:
        tiles = rows // ROWS * -(-n // c.width)
        return -(-tiles // CLUSTERS[c.split]) * (c.width // c.split + 40)

    some = [Cut(128, 2), Cut(128), Cut(96)] if sums else [Cut(w) for w in range(208, 88, -8)]
    return min((c for c in some if not sums or n % c.width == 0), key=columns)


@dataclass(frozen=True)
class Product:
    """A weight [N, K] in tiles of rows, packed; with it what the epilogue adds: [tiles, 2, width] fp32."""

    w: Tensor
    constants: Tensor
    n: int
    cut: Cut
    normed: bool
    map: bytes

    @classmethod
    def of(cls, w: Tensor, bias: Tensor, cut: Cut, norm: nn.LayerNorm | None = None) -> Product:
        """w [N, K] bf16 and bias [N]; norm: the LayerNorm before it."""
        n, (w, constants) = len(w), tiled(w, bias, cut.width, norm)
        return cls(w, constants, n, cut, norm is not None, tensor_map(w, cut.width))


def tiled(w: Tensor, bias: Tensor, width: int, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor]:
    """Weight rows in the order of vision_linear.cu, whole tiles, and the constants of each tile's columns."""
    n, dtype = len(w), w.dtype
    bias = bias.float()
    if norm is not None:
        bias = bias + w.float() @ norm.bias.float()
        w = (w.float() * norm.weight.float()).to(dtype)
    sums = w.float().sum(1)  # of the rounded weights: see vision_linear.cu
    missing = -n % width
    w, sums, bias = F.pad(w, (0, 0, 0, missing)), F.pad(sums, (0, missing)), F.pad(bias, (0, missing))
    whole = width // 32 * 32
    tiles = w.unflatten(0, (-1, width))
    w = torch.cat([torch.stack([packed(t) for t in tiles[:, :whole]]), tiles[:, whole:]], 1).flatten(0, 1)
    return w.contiguous(), torch.stack([sums.view(-1, width), bias.view(-1, width)], 1).contiguous()


@dataclass(frozen=True)
class Activations:
    """[≥ M, K] bf16 and where the copy engine finds them."""

    a: Tensor
    map: bytes

    @classmethod
    def of(cls, a: Tensor) -> Activations:
        return cls(a, tensor_map(a, 128))


def moments_for(cut: Cut, n: int, rows: int, device: torch.device) -> Tensor:
    """Room for the moments that a product of n columns leaves."""
    return torch.zeros(n // (cut.width // cut.split), rows, 2, device=device)


def _launch(epilogue: int, a: Activations, m: int, w: Product, out: Tensor, moments: Tensor | None, sums: Tensor | None,
            pdl: bool, image_rows: int = 0, share: int = 0) -> None:  # fmt: skip
    cut, k = w.cut, w.w.shape[1]
    stage, extra = (128 + cut.width) * 128, 16 * cut.width + (cut.split - 1) * 256 * cut.width + 2048
    depth = -(-k // 64) // cut.split  # steps of a tile: the loader runs into the next tile, not past it
    stages = min(cut.stages, (SHARED - extra) // stage, depth)
    defines = {"BN": cut.width, "MMA": f"mma{cut.width}", "STAGES": stages, "CLUSTER": 2 * cut.split,
               "PARTS": len(moments) if w.normed else 0, "EPILOGUE": epilogue}  # fmt: skip
    run = kernel("vision_linear", tuple(defines.items()), (mma(cut.width),), stages * stage + extra)
    clusters = min(m // ROWS * (len(w.w) // cut.width), CLUSTERS[cut.split])
    strides = (0 if t is None else t.shape[1] for t in (moments, sums))
    arguments = [a.map, w.map, w.constants, out, moments, sums, m, w.n, k, *strides, image_rows, share]
    run(2 * cut.split * clusters, 288, arguments, pdl)


def linear(a: Activations, m: int, w: Product, out: Tensor, moments: Tensor | None, *, gelu: bool = False,
           pdl: bool) -> None:  # fmt: skip
    """a [≥ m, K] -> out [≥ m, N]; moments: of a, where w has a norm."""
    _launch(GELU if gelu else PLAIN, a, m, w, out, moments, None, pdl)


def add_linear(a: Activations, m: int, w: Product, x: Tensor, moments: Tensor, *, pdl: bool) -> None:
    """x [≥ m, N] += a [≥ m, K] @ wᵀ + bias; moments of the result go to `moments`."""
    _launch(RESIDUAL, a, m, w, x, None, moments, pdl)


def prefix_linear(a: Activations, m: int, w: Product, out: Tensor, moments: Tensor, sums: Tensor, image_rows: int,
                  share: int, *, pdl: bool) -> None:  # fmt: skip
    """a [≥ m, K] -> rows of out: every `image_rows` of the product start `share` rows apart; sums [N / width, rows]."""
    _launch(PREFIX, a, m, w, out, moments, sums, pdl, image_rows, share)


@triton.jit
def moments_kernel(x, moments, stride, PARTS: tl.constexpr, PARTS_POW2: tl.constexpr, PART: tl.constexpr,
                   PART_POW2: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    chain(PDL)
    row, part, column = tl.program_id(0), tl.arange(0, PARTS_POW2), tl.arange(0, PART_POW2)
    some = (part < PARTS)[:, None] & (column < PART)[None, :]
    at = row * PARTS * PART + part[:, None] * PART + column[None, :]
    value = tl.load(x + at, mask=some, other=0.0).to(tl.float32)
    to = moments + (part * stride + row) * 2
    tl.store(to, tl.sum(value, axis=1), mask=part < PARTS)
    tl.store(to + 1, tl.sum(value * value, axis=1), mask=part < PARTS)


def row_moments(x: Tensor, moments: Tensor, *, pdl: bool) -> None:
    """x [M, W] -> moments [parts, ≥ M, 2]"""
    (m, width), parts = x.shape, len(moments)
    part, pow2 = width // parts, triton.next_power_of_2
    moments_kernel[(m,)](
        x, moments, moments.shape[1], parts, pow2(parts), part, pow2(part), pdl, num_warps=4, launch_pdl=pdl
    )
