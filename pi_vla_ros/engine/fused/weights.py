# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Weights as the kernels want them: projections packed, norms folded in, everything that is constant tabulated.

Folding, with W a matrix behind a norm (weight g, bias b):   norm(x) @ Wᵀ = plain(x) @ (W·g)ᵀ + W b.
The sum is formed in fp32 and rounded once. `steps` flow times are fixed, so are the modulations of π0.5 at them, and
at time 0, where committed actions stand (model/rtc.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.kernels.hopper_linear import Matrix, packed, packed_pair
from pi_vla_ros.kernels.qkv import paired
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.gemma import AdaRMSNorm, Gemma
from pi_vla_ros.model.pi import PiModel, time_embedding

Norm = tuple[Tensor, Tensor, Tensor]  # shift, weight, bias: see kernels/layer_norm.py


@dataclass
class VisionLayer:
    """Matrices transposed as the library wants them. The biases of `out` and `fc2` are in the norms' shifts."""

    norm1: Norm
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    norm2: Norm
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor


@dataclass
class GemmaLayer:
    """Tensors, or what `for_hopper` makes of them."""

    qkv: Tensor  # the last prefix layer: keys and values only, and nothing else
    out: Tensor | None = None
    up: Tensor | None = None  # expert: gate and up rows alternate; prefix: gate rows, then up rows
    down: Tensor | None = None


@dataclass
class Modulation:
    """π0.5, one norm of one layer at one time: scale [W], gate [W], and shift already behind the next product.

    Where actions can be committed, each is [2, ...]: at the time, and at 0."""

    scale: Tensor | None = None
    gate: Tensor | None = None
    shift: Tensor | None = None


@dataclass
class Turn:
    """Heads around a flow step: −dt · velocity of the step before (weight, bias), tokens of this step."""

    leave: tuple[Tensor, Tensor] | None
    enter: tuple[Tensor, Tensor] | None


def vision_layer(layer, shift: Tensor, dtype: torch.dtype) -> tuple[VisionLayer, Tensor]:
    """A layer and the shift behind it; `shift` [W] is the one before it."""
    a, m = layer.self_attn, layer.mlp
    qkv = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).to(dtype)
    bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]).to(dtype)
    between = shift + a.out_proj.bias.float()
    packed = VisionLayer(
        norm_of(layer.layer_norm1, shift), qkv.T, bias, kept(a.out_proj.weight, dtype).T,
        norm_of(layer.layer_norm2, between), kept(m.fc1.weight, dtype).T, kept(m.fc1.bias, dtype),
        kept(m.fc2.weight, dtype).T,
    )  # fmt: skip
    return packed, between + m.fc2.bias.float()


def norm_of(norm: nn.LayerNorm, shift: Tensor) -> Norm:
    return shift, kept(norm.weight), kept(norm.bias)


def kept(p: nn.Parameter, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that outlives its parameter (see drop)."""
    return p.detach().to(dtype)


def gemma_layer(layer, head_dim: int, dtype: torch.dtype, *, alternate: bool, kv_only: bool = False) -> GemmaLayer:
    """alternate: rows of gate and up in turn, so that one tile of a product holds both halves of a pair."""
    a, m = layer.self_attn, layer.mlp

    def folded(norm, w: Tensor) -> Tensor:
        plain = getattr(norm, "weight", None)  # an adaptive norm has none: its modulation is tabulated
        if plain is None:
            return w.to(dtype)
        out, scale = torch.empty_like(w, dtype=dtype), 1.0 + plain.float()
        for to, part in zip(
            out.split(4096), w.split(4096), strict=True
        ):  # a whole matrix in fp32 takes half a gigabyte
            to.copy_(part.float() * scale)
        return out

    query = [] if kv_only else [paired(a.q_proj.weight, head_dim)]
    qkv = folded(layer.input_layernorm, torch.cat([*query, paired(a.k_proj.weight, head_dim), a.v_proj.weight]))
    if kv_only:
        return GemmaLayer(qkv)
    pair = m.gate_proj.weight, m.up_proj.weight
    up = torch.stack(pair, dim=1).flatten(0, 1) if alternate else torch.cat(pair)
    out, down = kept(a.o_proj.weight, dtype).contiguous(), kept(m.down_proj.weight, dtype).contiguous()
    return GemmaLayer(qkv, out, folded(layer.post_attention_layernorm, up), down)


def for_hopper(w: GemmaLayer) -> GemmaLayer:
    """A prefix layer's weights as kernels/hopper_linear.py reads them; tiles as wide as make about one wave of programs
    of three cameras' rows (more rows: `qkv_width`, `better_by_columns`)."""
    if w.out is None:
        return GemmaLayer(Matrix.of(packed(w.qkv), 64))
    up = packed_pair(*w.up.chunk(2))
    return GemmaLayer(Matrix.of(packed(w.qkv), 160), *(Matrix.of(m, n) for m, n in (
        (packed(w.out), 128), (up, 256), (packed(w.down), 128))))  # fmt: skip


def drop(*modules: nn.Module) -> None:
    """Frees the original parameters: both copies of 3 billion numbers need not be on the GPU at once."""
    for module in modules:
        for p in module.parameters():
            p.data = torch.empty(0, dtype=p.dtype, device=p.device)


def modulations(
    expert: Gemma, packed: list[GemmaLayer], cond: Tensor, ended: Tensor | None
) -> list[list[tuple[Modulation, Modulation]]]:
    """cond [N, W] -> for each step and layer, the modulation before attention and before the MLP; with `ended` [1, W],
    the condition at time 0, for committed actions too."""
    table = []
    for layer, w in zip(expert.layers, packed, strict=True):
        pair = []
        for norm, following in ((layer.input_layernorm, w.qkv), (layer.post_attention_layernorm, w.up)):
            parts = modulated(norm, following, cond)
            if ended is not None:
                zero = modulated(norm, following, ended)
                parts = [torch.stack([t, z.expand_as(t)], dim=1) for t, z in zip(parts, zero, strict=True)]
            pair.append([Modulation(*(t.contiguous() for t in row)) for row in zip(*parts, strict=True)])
        table.append(list(zip(*pair, strict=True)))
    return [list(step) for step in zip(*table, strict=True)]


def modulated(norm: AdaRMSNorm, following: Tensor, cond: Tensor) -> list[Tensor]:
    """cond [N, W] -> scale, gate [N, W] and the shift behind the product with `following` [M, W], [N, M]."""
    scale, shift, gate = norm.dense(cond.to(norm.dense.weight.dtype)).float().chunk(3, dim=-1)
    return [scale, gate, shift @ following.float().T]


def condition(model: PiModel, at: list[float]) -> Tensor:
    """π0.5: what the expert's norms are told of the flow times, [N, W]."""
    clock = time_embedding(torch.tensor(at, device=model.action_in_proj.weight.device), model.geometry.expert.width)
    return F.silu(model.time_mlp_out(F.silu(model.time_mlp_in(clock))))


def turns(model: PiModel, steps: int) -> tuple[list[Turn], Tensor | None]:
    """Steps + 1 turns (the first only enters, the last only leaves) and the condition of the norms [N, W] (π0.5)."""
    device, width = model.action_in_proj.weight.device, model.geometry.expert.width
    w_in, b_in = model.action_in_proj.weight.float(), model.action_in_proj.bias.float()
    w_out, b_out = -model.action_out_proj.weight.float() / steps, -model.action_out_proj.bias.float() / steps
    if model.geometry.model == "pi05":
        cond = condition(model, times(steps))
        scale, shift, _ = model.expert.norm.dense(cond).float().chunk(3, dim=-1)
        leave = [((w_out * (1.0 + s)).contiguous(), b_out + w_out @ t) for s, t in zip(scale, shift, strict=True)]
        enter = [(w_in.contiguous(), b_in)] * steps
    else:
        cond, clock = None, time_embedding(torch.tensor(times(steps), device=device), width)
        leave = [((w_out * (1.0 + model.expert.norm.weight.float())).contiguous(), b_out)] * steps
        for_action, for_time = model.action_time_mlp_in.weight.float().chunk(2, dim=1)
        constant = model.action_time_mlp_in.bias.float() + for_action @ b_in + clock @ for_time.T
        enter = [((for_action @ w_in).contiguous(), c.contiguous()) for c in constant]
    return [Turn(a, b) for a, b in zip([None, *leave], [*enter, None], strict=True)], cond
