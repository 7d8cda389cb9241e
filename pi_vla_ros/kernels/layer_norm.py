# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of the vision tower.

    def layer_norm_reference(x, shift, weight, bias):
        return layer_norm(x + shift, weight, bias, eps=1e-6)

`shift` is the sum of the biases of all products that went into the residual stream so far. The library adds a product
to x or a bias to a product, not both; so x is kept without the biases, which are constants.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import EPS, chain


@triton.jit
def layer_norm_kernel(x, h, shift, weight, bias, W: tl.constexpr, WP: tl.constexpr, PDL: tl.constexpr):
    chain(PDL)
    w = tl.arange(0, WP)
    some = w < W
    at = tl.program_id(0) * W + w
    value = tl.load(x + at, mask=some, other=0.0).to(tl.float32) + tl.load(shift + w, mask=some, other=0.0)
    centred = tl.where(some, value - tl.sum(value) / W, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred) / W + EPS)
    y = y * tl.load(weight + w, mask=some, other=0.0) + tl.load(bias + w, mask=some, other=0.0)
    tl.store(h + at, y.to(h.dtype.element_ty), mask=some)


def layer_norm(x: Tensor, h: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, pdl: bool) -> None:
    """x [M, W] -> h [M, W]; shift, weight, bias [W] in fp32."""
    m, width = x.shape
    layer_norm_kernel[(m,)](
        x, h, shift, weight, bias, width, triton.next_power_of_2(width), pdl, num_warps=4, launch_pdl=pdl
    )
