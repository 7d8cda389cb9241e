# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Gemma as π0 uses it: one key/value head, RMSNorm or adaptive RMSNorm, no cache object, no LM head.

A layer is called with the keys and values that its queries see *before* its own, so that the prefix pass
(nothing before) and the suffix pass (the prefix's keys and values before) are the same code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.model.geometry import GemmaGeometry

EPS = 1e-6
ROPE_BASE = 10_000.0
MASKED = -2.3819763e38  # what the reference adds to the score of a key that may not be seen


class RMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) · (1 + w), in fp32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (_normalised(x) * (1.0 + self.weight.float())).to(x.dtype), None


class AdaRMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) · (1 + scale) + shift, and a gate for the residual; all three from `cond`."""

    def __init__(self, width: int, cond_width: int):
        super().__init__()
        self.dense = nn.Linear(cond_width, 3 * width)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        if cond.ndim == 2:  # one time for all tokens: [B, W] -> [B, 1, W]
            cond = cond[:, None]
        scale, shift, gate = self.dense(cond.to(self.dense.weight.dtype)).chunk(3, dim=-1)
        y = _normalised(x) * (1.0 + scale.float()) + shift.float()
        return y.to(x.dtype), gate.to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, g: GemmaGeometry):
        super().__init__()
        self.gate_proj = nn.Linear(g.width, g.mlp, bias=False)
        self.up_proj = nn.Linear(g.width, g.mlp, bias=False)
        self.down_proj = nn.Linear(g.mlp, g.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Attention(nn.Module):
    def __init__(self, g: GemmaGeometry):
        super().__init__()
        self.heads, self.head_dim = g.heads, g.head_dim
        self.q_proj = nn.Linear(g.width, g.heads * g.head_dim, bias=False)
        self.k_proj = nn.Linear(g.width, g.head_dim, bias=False)
        self.v_proj = nn.Linear(g.width, g.head_dim, bias=False)
        self.o_proj = nn.Linear(g.heads * g.head_dim, g.width, bias=False)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of `x` [B, T, W]: both [B, 1, T, head_dim]."""
        return rotate(self.k_proj(x)[:, None], rope), self.v_proj(x)[:, None]

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, W] queries k, v [B, 1, K, D]; bias [B, 1, T, K] fp32 is 0 where a key may be seen."""
        q = rotate(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2), rope)
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5 + bias
        y = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, g: GemmaGeometry, adaptive: bool):
        super().__init__()
        self.input_layernorm = make_norm(g, adaptive)
        self.self_attn = Attention(g)
        self.post_attention_layernorm = make_norm(g, adaptive)
        self.mlp = Mlp(g)

    def keys_values(self, x: Tensor, rope, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The layer's keys and values alone: all that the last prefix layer is needed for."""
        return self.self_attn.keys_values(self.input_layernorm(x, cond)[0], rope)

    def forward(self, x, rope, bias, cond=None, before=None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, W] -> (x, own keys and values). `before`: keys and values that stand before the own ones."""
        h, gate = self.input_layernorm(x, cond)
        own = self.self_attn.keys_values(h, rope)
        k, v = own if before is None else (torch.cat(pair, dim=2) for pair in zip(before, own, strict=True))
        x = residual(x, self.self_attn(h, rope, k, v, bias), gate)
        h, gate = self.post_attention_layernorm(x, cond)
        return residual(x, self.mlp(h), gate), own


class Gemma(nn.Module):
    """A stack of layers and the final norm; `adaptive` norms are conditioned on the flow time (π0.5 expert)."""

    def __init__(self, g: GemmaGeometry, adaptive: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Layer(g, adaptive) for _ in range(g.depth))
        self.norm = make_norm(g, adaptive)


def make_norm(g: GemmaGeometry, adaptive: bool) -> nn.Module:
    return AdaRMSNorm(g.width, g.width) if adaptive else RMSNorm(g.width)


def residual(x: Tensor, out: Tensor, gate: Tensor | None) -> Tensor:
    return x + out if gate is None else x + out * gate


def rope_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of position · base^(−2i/d), [B, 1, T, d/2]; computed in fp32, rounded to `dtype`."""
    i = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angle = positions[:, None, :, None].float() * (1.0 / ROPE_BASE ** (i / head_dim))
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding, half-split layout: [x1, x2] -> [x1·cos − x2·sin, x2·cos + x1·sin]."""
    cos, sin = rope
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


def mask_bias(allowed: Tensor) -> Tensor:
    """[B, T, K] bool -> [B, 1, T, K] fp32 to add to the scores."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, MASKED)[:, None]


def precision(name: str) -> torch.dtype | None:
    """The dtype that parameter `name` keeps whatever the model runs in; None follows the model."""
    return torch.float32 if "norm." in name else None


def _normalised(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
