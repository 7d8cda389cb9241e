# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Vision and language layers in fp8: a transformation of the model, applied once after loading.

e4m3 weights with one scale per output channel, activations scaled per token as they come. The expert, the heads, the
embedding and every norm stay as they are: the flow loop is where errors add up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.model.pi import PiModel

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
MULTIPLE = 16  # the matrix units take sizes that are a multiple of this


class Fp8Linear(nn.Module):
    """y = x · Wᵀ + b with both factors rounded to e4m3; x [..., K] in any float dtype, y in x's."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        values, scale = quantise(linear.weight)
        self.register_buffer("values", values)  # [N, K]
        self.register_buffer("scale", scale.T.contiguous())  # [1, N]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        values, scale = quantise(rows)
        y = torch._scaled_mm(values, self.values.T, scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[R, K] -> e4m3 values [R, K] and fp32 scales [R, 1]; rows ≈ values · scales. A row of zeros stays zeros."""
    rows = rows.float()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (rows / scale).to(FP8), scale


def to_fp8(model: PiModel) -> PiModel:
    """Replace the linear layers of the vision tower and the language stack, where their sizes allow it. In place."""
    for stack in (model.vision.layers, model.language.layers):
        for module in list(stack.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and not (child.in_features | child.out_features) % MULTIPLE:
                    setattr(module, name, Fp8Linear(child))
    return model


def reference(x: Tensor, linear: nn.Linear) -> Tensor:
    """What `Fp8Linear` computes, with dequantised factors in fp32: runs anywhere."""
    (xv, xs), (wv, ws) = quantise(x.reshape(-1, x.shape[-1])), quantise(linear.weight)
    y = F.linear(xv.float() * xs, wv.float() * ws).view(*x.shape[:-1], -1)
    return y if linear.bias is None else y + linear.bias.float()
