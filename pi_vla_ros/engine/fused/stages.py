# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The three passes as launches of kernels over static buffers: vision, prefix, expert.

A stage owns its packed weights and its buffers, sized for the largest batch; `launch` enqueues the kernels for the
sizes at hand and allocates nothing. Every kernel is chained to the one before it (kernels/common.py).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pi_vla_ros.engine.fused.tuning import Tuning
from pi_vla_ros.engine.fused.weights import drop, gemma_layer, modulations, turns, vision_layer
from pi_vla_ros.kernels.attention import attention, split_attention
from pi_vla_ros.kernels.embed import patches, text
from pi_vla_ros.kernels.flow_loop import FlowLoop, fits
from pi_vla_ros.kernels.heads import turn
from pi_vla_ros.kernels.linear import Stats, linear
from pi_vla_ros.kernels.qkv import qkv, rope_tables
from pi_vla_ros.kernels.residual import residual
from pi_vla_ros.kernels.vision_attention import vision_attention
from pi_vla_ros.model.pi import PiModel

BLOCK_ROWS = 64  # buffers of the expert hold whole tiles of rows


def statistics(width: int, bn: int, rows: int, device: torch.device) -> Stats:
    """Room for the partial row sums that a product with tiles of `bn` columns leaves."""
    parts = triton.cdiv(width, bn)
    return Stats(torch.zeros(2, parts, rows, device=device), width, parts)


class VisionStage:
    """Images [N, 3, S, S] -> prefix rows, N at most `images`."""

    def __init__(self, model: PiModel, images: int, dtype: torch.dtype, tune: Tuning, pdl: bool):
        v, g = model.vision, model.geometry.vision
        self._g, self._pdl = g, pdl
        device = v.patch_embedding.weight.device
        kernel = v.patch_embedding.weight.float().flatten(1)
        padded = triton.cdiv(kernel.shape[1], 16) * 16  # rows that the copy engine can address
        self._patch_w = torch.zeros(g.width, padded, device=device)
        self._patch_w[:, : kernel.shape[1]] = kernel
        self._patch_b = v.patch_embedding.bias.float()
        self._positions = v.position_embedding.weight.float().contiguous()
        self._layers = []
        for layer in v.layers:
            self._layers.append(vision_layer(layer, dtype))
            drop(layer)
        last = v.post_layernorm
        w, b = model.projector.weight.float(), model.projector.bias.float()
        self._project = (w * last.weight.float()).to(dtype)
        self._project_b = b + w @ last.bias.float()
        self._project_sums = self._project.float().sum(1)
        rows = images * g.tokens
        empty = {"device": device, "dtype": dtype}
        self._patches = torch.zeros(rows, padded, device=device)
        self._x = torch.empty(rows, g.width, **empty)
        self._qkv = torch.empty(rows, 3 * g.width, **empty)
        self._seen = torch.empty(rows, g.width, **empty)
        self._mlp = torch.empty(rows, g.mlp, **empty)
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune = tune
        writers = (tune.patches, tune.vision_out, tune.vision_fc2)
        self._sums = [statistics(self._g.width, t.bn, len(self._x), self._x.device) for t in writers]

    def launch(self, images: Tensor, out: Tensor, image_rows: int, out_sums: Stats, share: int) -> None:
        """images [N, 3, S, S] fp32; rows of `image_rows` tokens go to `out` rows `share` apart, with their sums."""
        g, t, pdl = self._g, self._tune, self._pdl
        n = len(images) * g.tokens
        x, packed, seen, mlp = self._x[:n], self._qkv[:n], self._seen[:n], self._mlp[:n]
        entered, attended, done = self._sums
        patches(images, self._patches[:n], g.patch, pdl=pdl)
        linear(self._patches[:n], self._patch_w, x, t.patches, bias=self._patch_b, residual=self._positions,
               residual_rows=g.tokens, stats_out=entered, pdl=pdl)  # fmt: skip
        before = entered
        at = t.vision_attention
        for w in self._layers:
            linear(x, w.qkv, packed, t.vision_qkv, norm="layer", stats_in=before, weight_sums=w.qkv_sums,
                   bias=w.qkv_bias, pdl=pdl)  # fmt: skip
            vision_attention(packed, seen, g.tokens, g.heads, bm=at.bm, bk=at.bk, stages=at.stages, warps=at.warps,
                             pdl=pdl)  # fmt: skip
            linear(seen, w.out, x, t.vision_out, bias=w.out_bias, residual=x, stats_out=attended, pdl=pdl)
            linear(x, w.fc1, mlp, t.vision_fc1, norm="layer", stats_in=attended, weight_sums=w.fc1_sums,
                   bias=w.fc1_bias, act="gelu", pdl=pdl)  # fmt: skip
            linear(mlp, w.fc2, x, t.vision_fc2, bias=w.fc2_bias, residual=x, stats_out=done, pdl=pdl)
            before = done
        linear(x, self._project, out, t.projector, norm="layer", stats_in=before, weight_sums=self._project_sums,
               bias=self._project_b, stats_out=out_sums, image_rows=image_rows, image_stride=share,
               pdl=pdl)  # fmt: skip


class PrefixStage:
    """Prefix rows -> keys and values of every layer. x [B · P, W]: per robot its cameras' tokens, then its prompt."""

    def __init__(self, model: PiModel, batch: int, longest: int, key_rows: int, dtype: torch.dtype, tune: Tuning,
                 pdl: bool):  # fmt: skip
        g = self._g = model.geometry.language
        self._pdl = pdl
        device = model.projector.weight.device
        depth = len(model.language.layers)
        self._layers = []
        for i, layer in enumerate(model.language.layers):
            self._layers.append(gemma_layer(layer, g.head_dim, dtype, kv_only=i == depth - 1))
            drop(layer)
        self._table = model.embed_tokens.weight
        rows = batch * longest
        empty = {"device": device, "dtype": dtype}
        self.x = torch.empty(rows, g.width, **empty)
        self._q = torch.empty(rows, g.heads * g.head_dim, **empty)
        self._seen = torch.empty_like(self._q)
        self._mlp = torch.empty(rows, g.mlp, **empty)
        self.keys = torch.zeros(depth, batch, key_rows, g.head_dim, **empty)
        self.values = torch.zeros_like(self.keys)
        self.rope = rope_tables(key_rows, g.head_dim, device)
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune = tune
        writers = (tune.projector, tune.prefix_out, tune.prefix_down)
        sums = [statistics(self._g.width, t.bn, len(self.x), self.x.device) for t in writers]
        self.sums, self._attended, self._done = sums

    def launch(self, tokens: Tensor, seen_rows: int, prompt: int, lengths: Tensor) -> None:
        """tokens [B, ≥ prompt]; seen_rows: camera tokens of a robot, there already; lengths [B] int32: rows that count."""
        g, t, pdl = self._g, self._tune, self._pdl
        batch, share = len(tokens), seen_rows + prompt
        n = batch * share
        x, q, seen, mlp = self.x[:n], self._q[:n], self._seen[:n], self._mlp[:n]
        folded = (batch, share * g.heads, g.head_dim)
        if prompt:
            text(tokens, prompt, self._table, x, share, seen_rows, self.sums, pdl=pdl)
        before = self.sums
        at = t.prefix_attention
        *layers, last = self._layers
        for i, w in enumerate(layers):
            k, v = self.keys[i, :batch], self.values[i, :batch]
            qkv(x, w.qkv, before, self.rope, q, k, v, share, t.prefix_qkv, pdl=pdl)
            attention(q.view(folded), k, v, seen.view(folded), lengths, bm=at.bm, bk=at.bk, stages=at.stages,
                      warps=at.warps, pdl=pdl)  # fmt: skip
            linear(seen, w.out, x, t.prefix_out, residual=x, stats_out=self._attended, pdl=pdl)
            linear(x, w.up, mlp, t.prefix_up, norm="rms", stats_in=self._attended, act="geglu", pdl=pdl)
            linear(mlp, w.down, x, t.prefix_down, residual=x, stats_out=self._done, pdl=pdl)
            before = self._done
        qkv(x, last.qkv, before, self.rope, q, self.keys[-1, :batch], self.values[-1, :batch], share, t.prefix_kv,
            pdl=pdl)  # fmt: skip


class ExpertStage:
    """The flow loop. Own keys and values are written behind the robot's prefix, from lengths[b] on."""

    def __init__(self, model: PiModel, batch: int, key_rows: int, steps: int, dtype: torch.dtype, tune: Tuning,
                 pdl: bool, rope: tuple[Tensor, Tensor]):  # fmt: skip
        geometry = model.geometry
        g = self._g = geometry.expert
        self._pdl, self._steps = pdl, steps
        self._tokens, self._state_token = geometry.suffix, int(geometry.model == "pi0")
        device = model.action_in_proj.weight.device
        self._layers = [gemma_layer(layer, g.head_dim, dtype) for layer in model.expert.layers]
        self._turns, cond = turns(model, steps)
        self._modulation = None if cond is None else modulations(model.expert, self._layers, cond)
        drop(model.expert)
        rows = triton.cdiv(batch * self._tokens, BLOCK_ROWS) * BLOCK_ROWS
        empty = {"device": device, "dtype": dtype}
        self._x = torch.zeros(rows, g.width, device=device)
        self._h = torch.zeros(rows, g.width, **empty)
        self._q = torch.zeros(rows, g.heads * g.head_dim, **empty)
        self._seen = torch.zeros_like(self._q)
        self._mlp = torch.zeros(rows, g.mlp, **empty)
        if self._state_token:
            self._state_proj = model.state_proj.weight.detach().float(), model.state_proj.bias.detach().float()
            self._mixed = torch.zeros(rows, g.width, device=device)  # rows of states stay 0
            self._entering = model.action_time_mlp_out.bias.detach().float().expand(rows, -1).contiguous()
            self._mix = model.action_time_mlp_out.weight.detach().float().contiguous()
        self._queries, self._key_rows = batch * self._tokens * g.heads, key_rows
        self._resident = None
        if tune.resident and dtype == torch.bfloat16 and fits(geometry, 1, device):
            mix, entering = (self._mix, self._entering[:BLOCK_ROWS]) if self._state_token else (None, None)
            self._resident = FlowLoop(self._layers, self._turns, self._modulation, mix, entering, rope, key_rows,
                                      self._tokens, steps)  # fmt: skip
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune, g = tune, self._g
        rows, device = len(self._x), self._x.device
        pieces = triton.cdiv(self._key_rows, tune.expert_attention.bk * tune.expert_attention.blocks)
        self._answers = torch.zeros(pieces, self._queries, g.head_dim, device=device, dtype=self._h.dtype)
        self._weights = torch.zeros(pieces, self._queries, device=device)
        ends = (tune.expert_out, tune.expert_down)
        self._attended, self._done = (statistics(g.width, t.bn, rows, device) for t in ends)
        first = tune.expert_mix.bn if self._state_token else g.width  # π0.5: one program writes a whole row
        self._entered = statistics(g.width, first, rows, device)
        ends += (tune.expert_mix,)
        work = max(t.split * triton.cdiv(rows, t.bm) * t.bm for t in ends) * (g.width + 256)
        self._work = torch.zeros(work, device=device)
        self._arrived = torch.zeros(rows * g.width // 256, dtype=torch.int32, device=device)

    def launch(self, x_t: Tensor, batch: int, longest: int, lengths: Tensor, keys: Tensor, values: Tensor,
               rope: tuple[Tensor, Tensor], state: Tensor | None) -> None:  # fmt: skip
        """x_t [B · H, A] fp32: noise in, actions out. `longest`: at least every lengths[b]; state [B, A] (π0)."""
        tokens, pdl = self._tokens, self._pdl
        if self._state_token:
            w, b = self._state_proj
            self._entering[: batch * tokens].view(batch, tokens, -1)[:, 0] = state @ w.T + b
        if self._resident and batch == 1:
            self._resident.launch(x_t, lengths, keys, values, pdl)
            return
        first, *others = self._turns
        self._enter(first, None, x_t, batch, 0)
        for step, following in enumerate(others):
            self._layers_of(step, batch, longest + tokens, lengths, keys, values, rope)
            self._enter(following, following.leave, x_t, batch, step + 1)

    def _enter(self, heads, leave, x_t: Tensor, batch: int, step: int) -> None:
        """Velocity out (if `leave`), tokens in (unless it was the last step)."""
        t, pdl = self._tune, self._pdl
        common = {"pdl": pdl, "tokens": self._tokens, "state": self._state_token}
        leave = leave and (self._x, *leave)
        n = batch * self._tokens
        if heads.enter is None:
            turn(x_t, leave=leave, **common)
        elif self._state_token:
            turn(x_t, leave=leave, enter=(self._mixed, None, *heads.enter), silu=True, **common)
            residual(self._mixed[:n], self._mix, self._x[:n], self._h[:n], None, None, self._entered,
                     self._work, self._arrived, t.expert_mix, before=self._entering, pdl=pdl)  # fmt: skip
        else:
            scale = self._modulation[step][0][0].scale
            turn(x_t, leave=leave, enter=(self._x, self._h, *heads.enter), stats=self._entered, scale=scale, **common)

    def _layers_of(self, step: int, batch: int, longest: int, lengths: Tensor, keys, values, rope) -> None:
        g, t, pdl, tokens = self._g, self._tune, self._pdl, self._tokens
        n = batch * tokens
        x, h, q, seen, mlp = (b[:n] for b in (self._x, self._h, self._q, self._seen, self._mlp))
        folded = (batch, tokens * g.heads, g.head_dim)
        at = t.expert_attention
        work = self._work, self._arrived
        depth = len(self._layers)
        for i, w in enumerate(self._layers):
            k, v = keys[i, :batch], values[i, :batch]
            following = self._layers[(i + 1) % depth]
            shift_qkv = shift_up = gate_out = gate_down = scale_up = scale_next = None
            if self._modulation:
                here, after = self._modulation[step][i]
                shift_qkv, shift_up, gate_out, gate_down, scale_up = here.shift, after.shift, here.gate, after.gate, after.scale
                scale_next = self._modulation[step][(i + 1) % depth][0].scale  # the last layer's is not read
            before = self._done if i else self._entered
            qkv(h, w.qkv, before, rope, q, k, v, tokens, t.expert_qkv, start=lengths, bias=shift_qkv,
                ahead=w.out if t.ahead else None, pdl=pdl)
            split_attention(q.view(folded), k, v, seen.view(folded), lengths, g.heads, longest, self._answers,
                            self._weights, bm=at.bm, bk=at.bk, blocks=at.blocks, warps=at.warps, join_rows=at.join,
                            state=bool(self._state_token), ahead=w.up if t.ahead else None, pdl=pdl)  # fmt: skip
            residual(seen, w.out, x, h, gate_out, scale_up, self._attended, *work, t.expert_out, ahead=w.down if t.ahead else None, pdl=pdl)
            linear(h, w.up, mlp, t.expert_up, norm="rms", stats_in=self._attended, bias=shift_up, act="geglu",
                   ahead=following.qkv if t.ahead else None, pdl=pdl)  # fmt: skip
            residual(mlp, w.down, x, h, gate_down, scale_next, self._done, *work, t.expert_down, pdl=pdl)
