# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision tower on Hopper: five CUDA kernels a layer, none of them a norm (docs/engine/vision_in_cuda.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vla_ros.engine.fused.stages import PatchEmbedding, VisionStage
from pi_vla_ros.engine.fused.tuning import Tuning
from pi_vla_ros.engine.fused.weights import drop
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.image_attention import TOKENS, WIDTH, held, image_attention, map_of
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.kernels.vision_linear import (
    Activations,
    Cut,
    Product,
    add_linear,
    cut_for,
    linear,
    moments_for,
    prefix_linear,
    row_moments,
)
from pi_vla_ros.model.pi import PiModel

SUMMED = 128  # columns of a part of the prefix rows' sums


@dataclass(frozen=True)
class Layer:
    qkv: Product
    out: Product
    fc1: Product
    fc2: Product


class CudaVision:
    """In the place of a VisionStage, where it `fits`."""

    def __init__(self, model: PiModel, images: int, tune: Tuning, pdl: bool):
        v, g = model.vision, model.geometry.vision
        self._g, self._pdl = g, pdl
        rows, device = images * g.tokens, v.patch_embedding.weight.device
        self._embedding = PatchEmbedding(model, images)
        back = cut_for(g.width, rows, sums=True)
        self._layers = []
        for layer in v.layers:
            a, m = layer.self_attn, layer.mlp
            three = a.q_proj, a.k_proj, a.v_proj
            self._layers.append(Layer(
                Product.of(torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]),
                           cut_for(3 * g.width, rows), layer.layer_norm1),
                Product.of(a.out_proj.weight[:, held(g.heads)], a.out_proj.bias, back),
                Product.of(m.fc1.weight, m.fc1.bias, cut_for(g.mlp, rows), layer.layer_norm2),
                Product.of(m.fc2.weight, m.fc2.bias, back),
            ))  # fmt: skip
            drop(layer)
        self._project = Product.of(model.projector.weight, model.projector.bias, Cut(SUMMED), v.post_layernorm)
        empty = {"device": device, "dtype": torch.bfloat16}
        self._x = torch.empty(rows, g.width, **empty)
        self._h = torch.empty(rows, g.width, **empty)
        self._qkv = torch.empty(rows, 3 * g.width, **empty)
        self._mlp = torch.empty(rows, g.mlp, **empty)
        self._moments = moments_for(back, g.width, rows, device)
        self._rows = [Activations.of(t) for t in (self._x, self._h, self._mlp)]
        self._heads = map_of(self._qkv)
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune = tune

    def launch(self, images: Tensor, out: Tensor, image_rows: int, out_sums: Stats, share: int) -> None:
        """As VisionStage.launch."""
        g, t, pdl = self._g, self._tune, self._pdl
        n = len(images) * g.tokens
        x, h, mlp = self._rows
        self._embedding.launch(images, self._x[:n], t.patches, pdl=pdl)
        row_moments(self._x[:n], self._moments, pdl=pdl)
        for w in self._layers:
            linear(x, n, w.qkv, self._qkv, self._moments, pdl=pdl)
            image_attention(self._heads, len(images), g.heads, self._h, pdl=pdl)
            add_linear(h, n, w.out, self._x, self._moments, pdl=pdl)
            linear(x, n, w.fc1, self._mlp, self._moments, gelu=True, pdl=pdl)
            add_linear(mlp, n, w.fc2, self._x, self._moments, pdl=pdl)
        prefix_linear(x, n, self._project, out, self._moments, out_sums.buffer, image_rows, share, pdl=pdl)


def fits(model: PiModel, tune: Tuning) -> bool:
    """Whether the kernels take the model's sizes, and its prefix stage the sums that they leave."""
    v, width, weight = model.geometry.vision, model.geometry.language.width, model.projector.weight
    sizes = v.tokens == TOKENS and v.width == v.heads * WIDTH and v.mlp % 8 == 0
    whole = v.width % 128 == 0 and width % SUMMED == 0 and tune.projector.bn == SUMMED
    return weight.dtype == torch.bfloat16 and available(weight.device) and sizes and whole


def vision_stage(model: PiModel, images: int, dtype: torch.dtype, tune: Tuning, pdl: bool) -> CudaVision | VisionStage:
    if tune.vision_in_cuda and fits(model, tune):
        return CudaVision(model, images, tune, pdl)
    return VisionStage(model, images, dtype, tune, pdl)
