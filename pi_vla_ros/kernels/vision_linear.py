# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision tower's products on Hopper (vision_linear.cu). With LN a LayerNorm of eps 1e-6, they equal

    def normed_linear_reference(x, norm, w, b, gelu):         # `Product.of(w, b, width, norm)`, then `linear`
        y = LN(x, norm.weight, norm.bias) @ w.T + b
        return gelu_tanh(y) if gelu else y

    def residual_linear_reference(x, a, w, b):                # `Product.of(w, b, 128)`, then `add_linear`
        return x + a @ w.T + b                                # and the moments of its rows

Moments are Σx and Σx² of rows of x [rows, width], in partial sums of 64 columns: [width / 64, rows, 2] fp32. A product
that writes x leaves them, one that reads it applies the norm to its result: no pass over x is the norm's own.
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

PLAIN, GELU, RESIDUAL = range(3)
PART = 64  # columns of a partial sum
ROWS = 256  # of a cluster: sizes must be multiples
CLUSTERS = {1: 66, 2: 30}  # that are on the chip at once, by programs that share a tile's depth (H200)


@dataclass(frozen=True)
class Product:
    """A weight [N, K] in tiles of `width` rows, packed; with it what the epilogue adds: [tiles, 2, width] fp32."""

    w: Tensor
    constants: Tensor
    n: int
    width: int
    normed: bool
    map: bytes

    @classmethod
    def of(cls, w: Tensor, bias: Tensor, width: int, norm: nn.LayerNorm | None = None) -> Product:
        """w [N, K] bf16 and bias [N]; norm: the LayerNorm before it."""
        w, constants = tiled(w, bias, width, norm)
        return cls(w, constants, len(bias), width, norm is not None, tensor_map(w, width))


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


def _launch(epilogue: int, a: Activations, m: int, w: Product, out: Tensor, moments_in: Tensor | None,
            moments_out: Tensor | None, stages: int | None, pdl: bool) -> None:  # fmt: skip
    split = 2 if epilogue == RESIDUAL else 1
    stage, extra = (128 + w.width) * 128, 16 * w.width + (split - 1) * 128 * w.width * 2 + 2048
    depth = -(-w.w.shape[1] // 64) // split  # steps of a tile: the loader runs into the next tile, not past it
    stages = min(stages or 99, (SHARED - extra) // stage, depth)
    parts = len(moments_in) if w.normed else 0
    defines = {"BN": w.width, "MMA": f"mma{w.width}", "STAGES": stages, "CLUSTER": 2 * split, "PARTS": parts,
               "EPILOGUE": epilogue}  # fmt: skip
    run = kernel("vision_linear", tuple(defines.items()), (mma(w.width),), stages * stage + extra)
    clusters = min(m // ROWS * (len(w.w) // w.width), CLUSTERS[split])
    moments = moments_in if w.normed else moments_out
    run(
        2 * split * clusters, 288,
        [a.map, w.map, w.constants, out, moments_in, moments_out, m, w.n, w.w.shape[1], 0 if moments is None else moments.shape[1]],
        pdl,
    )  # fmt: skip


def linear(a: Activations, m: int, w: Product, out: Tensor, moments: Tensor | None, *, gelu: bool = False,
           stages: int | None = None, pdl: bool) -> None:  # fmt: skip
    """a [≥ m, K] -> out [≥ m, N]; moments: of a, where w has a norm; stages: of the ring, at most what fits."""
    _launch(GELU if gelu else PLAIN, a, m, w, out, moments, None, stages, pdl)


def add_linear(a: Activations, m: int, w: Product, x: Tensor, moments: Tensor, *, stages: int | None = None,
               pdl: bool) -> None:  # fmt: skip
    """x [≥ m, N] += a @ wᵀ + bias; moments of the result go to `moments`."""
    _launch(RESIDUAL, a, m, w, x, None, moments, stages, pdl)


@triton.jit
def moments_kernel(x, moments, stride, W: tl.constexpr, PART: tl.constexpr, PDL: tl.constexpr):
    chain(PDL)
    row, part = tl.program_id(0), tl.program_id(1)
    value = tl.load(x + row * W + part * PART + tl.arange(0, PART)).to(tl.float32)
    to = moments + (part * stride + row) * 2
    tl.store(to, tl.sum(value))
    tl.store(to + 1, tl.sum(value * value))


def row_moments(x: Tensor, moments: Tensor, *, pdl: bool) -> None:
    """x [M, W] -> moments [W / 64, ≥ M, 2]"""
    moments_kernel[(len(x), len(moments))](x, moments, moments.shape[1], x.shape[1], PART, pdl, num_warps=1, launch_pdl=pdl)
