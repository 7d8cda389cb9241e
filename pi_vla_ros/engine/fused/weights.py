# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Weights as the kernels want them: projections packed, norms folded in, everything that is constant tabulated.

Folding, with W a matrix behind a norm (weight g, bias b):   norm(x) @ Wᵀ = plain(x) @ (W·g)ᵀ + W b.
The sum is formed in fp32 and rounded once. `steps` flow times are fixed, so are the modulations of π0.5 at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.kernels.qkv import paired
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.gemma import Gemma
from pi_vla_ros.model.pi import PiModel, time_embedding


@dataclass
class VisionLayer:
    """Each `sums` is ΣW over the inner axis, for the mean of the LayerNorm before the product."""

    qkv: Tensor
    qkv_bias: Tensor
    qkv_sums: Tensor
    out: Tensor
    out_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc1_sums: Tensor
    fc2: Tensor
    fc2_bias: Tensor


@dataclass
class GemmaLayer:
    qkv: Tensor  # the last prefix layer: keys and values only, and nothing else
    out: Tensor | None = None
    up: Tensor | None = None  # gate and up rows alternate
    down: Tensor | None = None


@dataclass
class Modulation:
    """π0.5, one norm of one layer at one time: scale [W], gate [W], and shift already behind the next product."""

    scale: Tensor | None = None
    gate: Tensor | None = None
    shift: Tensor | None = None


@dataclass
class Turn:
    """Heads around a flow step: −dt · velocity of the step before (weight, bias), tokens of this step."""

    leave: tuple[Tensor, Tensor] | None
    enter: tuple[Tensor, Tensor] | None


def behind_layer_norm(norm: nn.LayerNorm, w: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, bias, sums of the weight's rows) of a linear after a LayerNorm."""
    folded = (w.float() * norm.weight.float()).to(dtype)
    return folded, b.float() + w.float() @ norm.bias.float(), folded.float().sum(1)


def vision_layer(layer, dtype: torch.dtype) -> VisionLayer:
    a, m = layer.self_attn, layer.mlp
    w = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
    b = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
    return VisionLayer(
        *behind_layer_norm(layer.layer_norm1, w, b, dtype),
        a.out_proj.weight.detach().to(dtype),
        a.out_proj.bias.detach().float(),
        *behind_layer_norm(layer.layer_norm2, m.fc1.weight, m.fc1.bias, dtype),
        m.fc2.weight.detach().to(dtype),
        m.fc2.bias.detach().float(),
    )


def gemma_layer(layer, head_dim: int, dtype: torch.dtype, kv_only: bool = False) -> GemmaLayer:
    a, m = layer.self_attn, layer.mlp

    def folded(norm, w: Tensor) -> Tensor:
        plain = getattr(norm, "weight", None)  # an adaptive norm has none: its modulation is tabulated
        return w.to(dtype) if plain is None else (w.float() * (1.0 + plain.float())).to(dtype)

    query = [] if kv_only else [paired(a.q_proj.weight, head_dim)]
    qkv = folded(layer.input_layernorm, torch.cat([*query, paired(a.k_proj.weight, head_dim), a.v_proj.weight]))
    if kv_only:
        return GemmaLayer(qkv)
    up = torch.stack([m.gate_proj.weight, m.up_proj.weight], dim=1).flatten(0, 1)
    out, down = a.o_proj.weight.detach().to(dtype).contiguous(), m.down_proj.weight.detach().to(dtype).contiguous()
    return GemmaLayer(qkv, out, folded(layer.post_attention_layernorm, up), down)


def drop(*modules: nn.Module) -> None:
    """Frees the original parameters: both copies of 3 billion numbers need not be on the GPU at once."""
    for module in modules:
        for p in module.parameters():
            p.data = torch.empty(0, dtype=p.dtype, device=p.device)


def modulations(expert: Gemma, packed: list[GemmaLayer], cond: Tensor) -> list[list[tuple[Modulation, Modulation]]]:
    """cond [N, W] -> for each step and layer, the modulation before attention and before the MLP."""
    table = []
    for layer, w in zip(expert.layers, packed, strict=True):
        pair = []
        for norm, following in ((layer.input_layernorm, w.qkv), (layer.post_attention_layernorm, w.up)):
            scale, shift, gate = norm.dense(cond.to(norm.dense.weight.dtype)).float().chunk(3, dim=-1)
            shift = shift @ following.float().T
            pair.append([Modulation(*(t.contiguous() for t in row)) for row in zip(scale, gate, shift, strict=True)])
        table.append(list(zip(*pair, strict=True)))
    return [list(step) for step in zip(*table, strict=True)]


def turns(model: PiModel, steps: int) -> tuple[list[Turn], Tensor | None]:
    """Steps + 1 turns (the first only enters, the last only leaves) and the condition of the norms [N, W] (π0.5)."""
    device, width = model.action_in_proj.weight.device, model.geometry.expert.width
    clock = time_embedding(torch.tensor(times(steps), device=device), width)
    w_in, b_in = model.action_in_proj.weight.float(), model.action_in_proj.bias.float()
    w_out, b_out = -model.action_out_proj.weight.float() / steps, -model.action_out_proj.bias.float() / steps
    if model.geometry.model == "pi05":
        cond = F.silu(model.time_mlp_out(F.silu(model.time_mlp_in(clock))))
        scale, shift, _ = model.expert.norm.dense(cond).float().chunk(3, dim=-1)
        leave = [((w_out * (1.0 + s)).contiguous(), b_out + w_out @ t) for s, t in zip(scale, shift, strict=True)]
        enter = [(w_in.contiguous(), b_in)] * steps
    else:
        cond = None
        leave = [((w_out * (1.0 + model.expert.norm.weight.float())).contiguous(), b_out)] * steps
        for_action, for_time = model.action_time_mlp_in.weight.float().chunk(2, dim=1)
        constant = model.action_time_mlp_in.bias.float() + for_action @ b_in + clock @ for_time.T
        enter = [((for_action @ w_in).contiguous(), c.contiguous()) for c in constant]
    return [Turn(a, b) for a, b in zip([None, *leave], [*enter, None], strict=True)], cond
