# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The SigLIP vision tower: pre-LayerNorm transformer over 14 × 14 patches, no CLS token, no pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.model.geometry import VisionGeometry

EPS = 1e-6


def embedding(rows: int, width: int) -> nn.Embedding:
    """Without initial numbers: on the meta device nn.Embedding's own import torch._dynamo, which takes seconds."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class Attention(nn.Module):
    def __init__(self, g: VisionGeometry):
        super().__init__()
        self.heads = g.heads
        self.q_proj = nn.Linear(g.width, g.width)
        self.k_proj = nn.Linear(g.width, g.width)
        self.v_proj = nn.Linear(g.width, g.width)
        self.out_proj = nn.Linear(g.width, g.width)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, W]
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v)  # scale head_dim ** -0.5
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, g: VisionGeometry):
        super().__init__()
        self.fc1 = nn.Linear(g.width, g.mlp)
        self.fc2 = nn.Linear(g.mlp, g.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, g: VisionGeometry):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(g.width, eps=EPS)
        self.self_attn = Attention(g)
        self.layer_norm2 = nn.LayerNorm(g.width, eps=EPS)
        self.mlp = Mlp(g)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Vision(nn.Module):
    """Images [N, 3, S, S] in [-1, 1] -> tokens [N, (S / patch)², width], row by row."""

    def __init__(self, g: VisionGeometry):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, g.width, g.patch, stride=g.patch)
        self.position_embedding = embedding(g.tokens, g.width)
        self.layers = nn.ModuleList(Layer(g) for _ in range(g.depth))
        self.post_layernorm = nn.LayerNorm(g.width, eps=EPS)

    def forward(self, images: Tensor) -> Tensor:
        # patches and positions stay in their own (higher) precision; the layers run in theirs
        x = self.patch_embedding(images.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        x = (x + self.position_embedding.weight).to(self.post_layernorm.weight.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


def precision(name: str) -> torch.dtype | None:
    """The dtype that parameter `name` keeps whatever the model runs in; None follows the model."""
    return torch.float32 if name.startswith(("patch_embedding.", "position_embedding.")) else None
