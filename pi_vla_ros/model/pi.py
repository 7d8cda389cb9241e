# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""π0 and π0.5: prefix pass (cameras and prompt -> keys and values), suffix pass (noisy actions -> velocity).

The two models share everything but the head: π0 has a state token and mixes the time into the action tokens;
π0.5 has no state token and conditions every norm of the expert on the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vla_ros.model import gemma, siglip
from pi_vla_ros.model.gemma import Gemma, mask_bias, rope_table
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.siglip import Vision, embedding

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


@dataclass(frozen=True)
class Prefix:
    """What the expert sees of cameras and prompt: per layer rotated keys and values, [B, 1, P, head_dim]."""

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor  # [B, P] bool


class PiModel(nn.Module):
    """The whole model. Shapes: B batch, C cameras, L prompt, P = C · tokens + L, H chunk, A action dims."""

    def __init__(self, geometry: Geometry):
        super().__init__()
        g = self.geometry = geometry
        width, pi05 = g.expert.width, g.model == "pi05"
        self.vision = Vision(g.vision)
        self.projector = nn.Linear(g.vision.width, g.language.width)
        self.embed_tokens = embedding(g.vocab, g.language.width)
        self.language = Gemma(g.language)
        self.expert = Gemma(g.expert, adaptive=pi05)
        self.action_in_proj = nn.Linear(g.action_dim, width)
        self.action_out_proj = nn.Linear(width, g.action_dim)
        if pi05:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(g.action_dim, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)

    # --- prefix -----------------------------------------------------------------------------------------------

    def embed_images(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> [N, tokens, W]; not scaled, unlike text."""
        seen = self.projector(self.vision(images).to(self.projector.weight.dtype))
        return seen.to(self.embed_tokens.weight.dtype)  # the tower may run in a higher precision than the rest

    def embed_text(self, tokens: Tensor) -> Tensor:
        """[B, L] -> [B, L, W], scaled by √W. The table may lie on another device than the tokens."""
        words = self.embed_tokens(tokens.to(self.embed_tokens.weight.device)).to(tokens.device)
        return words * math.sqrt(self.geometry.language.width)

    def embed_prefix(self, images: Tensor, cameras: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, C, 3, S, S], cameras [B, C] bool, tokens [B, L], lengths [B] -> x [B, P, W], valid [B, P]."""
        seen = self.embed_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.join_prefix(seen, cameras, tokens, lengths)

    def join_prefix(self, seen: Tensor, cameras: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded images [B, C, T, W] and prompt tokens [B, L] in one row: x [B, P, W], valid [B, P]."""
        x = torch.cat([seen.flatten(1, 2), self.embed_text(tokens).to(seen.dtype)], dim=1)
        said = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        valid = torch.cat([cameras.repeat_interleave(seen.shape[2], dim=1), said], dim=1)
        return x, valid

    def prefix(self, x: Tensor, valid: Tensor) -> Prefix:
        """Prefix embeddings -> keys and values. Prefix tokens all see each other; masked ones take no position."""
        rope = rope_table(valid.cumsum(1) - 1, self.geometry.language.head_dim, x.dtype)
        bias = mask_bias(valid[:, None, :] & valid[:, :, None])
        keys, values = [], []
        *layers, last = self.language.layers
        for layer in layers:
            x, (k, v) = layer(x, rope, bias)
            keys.append(k)
            values.append(v)
        k, v = last.keys_values(x, rope)  # nothing reads the last layer's output
        return Prefix([*keys, k], [*values, v], valid)

    # --- suffix -----------------------------------------------------------------------------------------------

    def embed_suffix(self, x_t: Tensor, time: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x_t [B, H, A], time [B] or [B, H], state [B, A] (π0) -> tokens [B, T, W], condition of the norms."""
        width = self.geometry.expert.width
        actions = self.action_in_proj(x_t)
        clock = time_embedding(time, width)
        if self.geometry.model == "pi05":
            return actions, F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(clock))))
        clock = (clock if time.ndim == 2 else clock[:, None]).expand_as(actions)
        mixed = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(torch.cat([actions, clock], dim=-1))))
        return torch.cat([self.state_proj(state)[:, None], mixed], dim=1), None

    def velocity(self, prefix: Prefix, x_t: Tensor, time: Tensor, state: Tensor | None = None) -> Tensor:
        """v = noise − action at `time` (1 is noise, 0 is action): [B, H, A], fp32."""
        x, cond = self.embed_suffix(x_t, time, state)
        x = x.to(prefix.keys[0].dtype)
        count, device = x.shape[1], x.device
        position = prefix.valid.sum(1, keepdim=True) + torch.arange(count, device=device)
        rope = rope_table(position, self.geometry.expert.head_dim, x.dtype)
        own = torch.ones(count, count, dtype=torch.bool, device=device)
        if self.geometry.model == "pi0":
            own[0, 1:] = False  # the state token does not see the actions
        allowed = torch.cat([prefix.valid[:, None].expand(-1, count, -1), own.expand(len(x), -1, -1)], dim=2)
        bias = mask_bias(allowed)
        for layer, k, v in zip(self.expert.layers, prefix.keys, prefix.values, strict=True):
            x, _ = layer(x, rope, bias, cond, before=(k, v))
        x, _ = self.expert.norm(x, cond)
        return self.action_out_proj(x[:, -x_t.shape[1] :].float())


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sines then cosines of 2π·t / period, periods spaced geometrically: [...] -> [..., width], fp32 from fp64."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    phase = 2 * math.pi * time[..., None].double() / period
    return torch.cat([phase.sin(), phase.cos()], dim=-1).float()


def precision(name: str) -> torch.dtype | None:
    """The dtype that a parameter keeps whatever the model runs in (openpi PyTorch's rule); None follows the model.

    Heads, time path and state path stay in fp32, so do all norms of the Gemma stacks and SigLIP's patch embedding.
    """
    room, _, rest = name.partition(".")
    if room == "vision":
        return siglip.precision(rest)
    if room in ("language", "expert"):
        return gemma.precision(rest)
    return None if room in ("projector", "embed_tokens") else torch.float32


def parameter_dtype(name: str, params: torch.dtype, vision: torch.dtype | None = None) -> torch.dtype:
    """The dtype of parameter `name` in a model run in `params`, with the vision tower in `vision` if given."""
    if vision is not None and name.startswith(("vision.", "projector.")):
        params = vision
    return precision(name) or params
