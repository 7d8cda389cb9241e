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
from pi_vla_ros.engine.fused.weights import (
    condition,
    drop,
    for_hopper,
    gemma_layer,
    kept,
    modulations,
    norm_of,
    turns,
    vision_layer,
)
from pi_vla_ros.engine.phases import phase
from pi_vla_ros.kernels.attention import attention, split_attention
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.embed import patches, text
from pi_vla_ros.kernels.flow_loop import FlowLoop, fits
from pi_vla_ros.kernels.geglu import geglu, row_sums
from pi_vla_ros.kernels.heads import turn
from pi_vla_ros.kernels.hopper_attention import chunk_attention, queries_map
from pi_vla_ros.kernels.hopper_columns import better_by_columns, residual_columns
from pi_vla_ros.kernels.hopper_linear import Rows, geglu_linear, qkv_linear, qkv_width, residual_linear
from pi_vla_ros.kernels.layer_norm import layer_norm
from pi_vla_ros.kernels.linear import Stats, Tile, linear
from pi_vla_ros.kernels.qkv import qkv, rope_tables
from pi_vla_ros.kernels.residual import residual
from pi_vla_ros.kernels.vision_attention import vision_attention
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import Chunking, Committed

BLOCK_ROWS = 64  # buffers of the expert hold whole tiles of rows


def statistics(width: int, bn: int, rows: int, device: torch.device) -> Stats:
    """Room for the partial row sums that a product with tiles of `bn` columns leaves."""
    return Stats(torch.zeros(triton.cdiv(width, bn), rows, device=device), width)


class PatchEmbedding:
    """Images [N, 3, S, S] -> rows of the vision tower, with their positions; N at most `images`."""

    def __init__(self, model: PiModel, images: int):
        v, g = model.vision, model.geometry.vision
        self._g = g
        device = v.patch_embedding.weight.device
        kernel = v.patch_embedding.weight.float().flatten(1)
        padded = triton.cdiv(kernel.shape[1], 16) * 16  # rows that the copy engine can address
        self._w = torch.zeros(g.width, padded, device=device)
        self._w[:, : kernel.shape[1]] = kernel
        self._b = v.patch_embedding.bias.float()
        self._positions = v.position_embedding.weight.float().contiguous()
        self._patches = torch.zeros(images * g.tokens, padded, device=device)

    def launch(self, images: Tensor, x: Tensor, tile: Tile, *, pdl: bool) -> None:
        some = self._patches[: len(x)]
        patches(images, some, self._g.patch, pdl=pdl)
        linear(some, self._w, x, tile, bias=self._b, residual=self._positions, residual_rows=self._g.tokens, pdl=pdl)


class VisionStage:
    """N images -> prefix rows, N at most `images`."""

    def __init__(self, model: PiModel, images: int, dtype: torch.dtype, tune: Tuning, pdl: bool):
        v, g = model.vision, model.geometry.vision
        self._g, self._pdl = g, pdl
        device = v.patch_embedding.weight.device
        self._embedding = PatchEmbedding(model, images)
        self._layers, shift = [], torch.zeros(g.width, device=device)
        for layer in v.layers:
            packed, shift = vision_layer(layer, shift, dtype)
            self._layers.append(packed)
            drop(layer)
        self._last = norm_of(v.post_layernorm, shift)
        self._project = kept(model.projector.weight, dtype)
        self._project_b = kept(model.projector.bias)
        rows = images * g.tokens
        empty = {"device": device, "dtype": dtype}
        self._x = torch.empty(rows, g.width, **empty)
        self._h = torch.empty(rows, g.width, **empty)
        self._qkv = torch.empty(rows, 3 * g.width, **empty)
        self._mlp = torch.empty(rows, g.mlp, **empty)
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune = tune

    def launch(self, images: Tensor, out: Tensor, image_rows: int, out_sums: Stats, share: int) -> None:
        """images [N, 3, S, S] fp32 in [-1, 1], or [N, S, S, 3] uint8; rows of `image_rows` tokens go to `out` rows `share`
        apart, with their sums."""
        g, t, pdl = self._g, self._tune, self._pdl
        n = len(images) * g.tokens
        x, h, packed, mlp = self._x[:n], self._h[:n], self._qkv[:n], self._mlp[:n]
        self._embedding.launch(images, x, t.patches, pdl=pdl)
        at = t.vision_attention
        for w in self._layers:
            layer_norm(x, h, *w.norm1, pdl=pdl)
            torch.addmm(w.qkv_bias, h, w.qkv, out=packed)
            vision_attention(packed, h, g.tokens, g.heads, bm=at.bm, bk=at.bk, stages=at.stages, warps=at.warps,
                             pdl=pdl)  # fmt: skip
            torch.addmm(x, h, w.out, out=x)
            layer_norm(x, h, *w.norm2, pdl=pdl)
            gelu_linear(h, w.fc1, w.fc1_bias, mlp)
            torch.addmm(x, mlp, w.fc2, out=x)
        layer_norm(x, h, *self._last, pdl=pdl)
        linear(h, self._project, out, t.projector, bias=self._project_b, stats_out=out_sums, image_rows=image_rows,
               image_stride=share, pdl=pdl)  # fmt: skip


def gelu_linear(h: Tensor, w: Tensor, bias: Tensor, out: Tensor) -> None:
    """out = gelu_tanh(h @ w + bias): the library's epilogue on a GPU."""
    if h.is_cuda:
        torch.ops.aten._addmm_activation.out(bias, h, w, use_gelu=True, out=out)
    else:
        torch.addmm(bias, h, w, out=out)
        out.copy_(torch.nn.functional.gelu(out, approximate="tanh"))


class PrefixStage:
    """Prefix rows -> keys and values of every layer. x [B · P, W]: per robot its cameras' tokens, then its prompt."""

    def __init__(self, model: PiModel, batch: int, longest: int, key_rows: int, dtype: torch.dtype, tune: Tuning,
                 pdl: bool):  # fmt: skip
        g = self._g = model.geometry.language
        self._pdl = pdl
        device = model.projector.weight.device
        depth = len(model.language.layers)
        sizes = g.head_dim, g.heads, g.width % 256, g.mlp % 256
        self._hopper = dtype == torch.bfloat16 and available(device) and sizes == (256, 8, 0, 0)
        self._layers = []
        for i, layer in enumerate(model.language.layers):
            ours = gemma_layer(layer, g.head_dim, dtype, alternate=False, kv_only=i == depth - 1)
            drop(layer)
            self._layers.append(for_hopper(ours) if self._hopper else ours)
        rows, key_rows = batch * longest, triton.cdiv(key_rows, 64) * 64
        empty = {"device": device, "dtype": dtype}
        self.x = torch.empty(rows, g.width, **empty)
        self._q = torch.empty(rows, g.heads * g.head_dim, **empty)
        self._seen = torch.empty_like(self._q)
        self._mlp = torch.empty(rows, g.mlp, **empty)
        self._raw = torch.empty(0 if self._hopper else rows, 2 * g.mlp, **empty)
        self.keys = torch.zeros(depth, batch, key_rows, g.head_dim, **empty)
        self.values = torch.zeros_like(self.keys)
        self.rope = rope_tables(key_rows, g.head_dim, device)
        if self._hopper:
            self._rows = [Rows.of(b) for b in (self.x, self._seen, self._mlp)]
            self._queries = queries_map(self._q.view(-1, g.head_dim))
        self.retune(tune)

    def retune(self, tune: Tuning) -> None:
        self._tune = tune
        writers = (
            (tune.projector.bn, 64, 64) if self._hopper else (tune.projector.bn, tune.prefix_out.bn, self._g.width)
        )
        sums = [statistics(self._g.width, bn, len(self.x), self.x.device) for bn in writers]
        self.sums, self._attended, self._done = sums

    def launch(self, words: Tensor, seen_rows: int, lengths: Tensor, chunked: bool = False) -> None:
        """words [B, prompt, W]: the prompts' rows of the token embedding; seen_rows: camera tokens of a robot, there
        already; lengths [B] int32: rows that count.

        chunked: keys and values as the expert's resident kernel wants them (one robot on Hopper)."""
        g, t, pdl = self._g, self._tune, self._pdl
        batch, prompt, _ = words.shape
        share = seen_rows + prompt
        n = batch * share
        x, q, seen, mlp, raw = (b[:n] for b in (self.x, self._q, self._seen, self._mlp, self._raw))
        folded = (batch, share * g.heads, g.head_dim)
        if prompt:
            with phase("lang_pack"):
                text(words, x, share, seen_rows, self.sums, pdl=pdl)
        before = self.sums
        at = t.prefix_attention
        *layers, last = self._layers
        if self._hopper:
            self._launch_on_hopper(batch, share, lengths, chunked)
            return
        for i, w in enumerate(layers):
            k, v = self.keys[i, :batch], self.values[i, :batch]
            qkv(x, w.qkv, before, self.rope, q, k, v, share, t.prefix_qkv, pdl=pdl)
            attention(q.view(folded), k, v, seen.view(folded), lengths, bm=at.bm, bk=at.bk, stages=at.stages,
                      warps=at.warps, pdl=pdl)  # fmt: skip
            linear(seen, w.out, x, t.prefix_out, residual=x, stats_out=self._attended, pdl=pdl)
            torch.mm(x, w.up.T, out=raw)
            geglu(raw, mlp, self._attended, pdl=pdl)
            torch.addmm(x, mlp, w.down.T, out=x)
            row_sums(x, self._done, pdl=pdl)
            before = self._done
        qkv(x, last.qkv, before, self.rope, q, self.keys[-1, :batch], self.values[-1, :batch], share, t.prefix_kv,
            pdl=pdl)  # fmt: skip

    def _launch_on_hopper(self, batch: int, share: int, lengths: Tensor, chunked: bool) -> None:
        """The layers: all products in CUDA, attention too where the keys are in chunks."""
        g, pdl, at = self._g, self._pdl, self._tune.prefix_attention
        n = batch * share
        x, seen, mlp = self._rows
        before = self.sums
        add_out, add_down = (residual_columns if better_by_columns(n, g.width, k) else residual_linear
                             for k in (g.heads * g.head_dim, g.mlp))  # fmt: skip
        *layers, last = self._layers
        width = qkv_width(n, (g.heads + 2) * g.head_dim)
        for i, w in enumerate(layers):
            k, v = self.keys[i, :batch], self.values[i, :batch]
            qkv_linear(x, n, w.qkv.cut(width), before, self.rope, self._q, k, v, share, chunked=chunked, pdl=pdl)
            if chunked:
                chunk_attention(self._queries, n * g.heads, k, v, self._seen, lengths, pdl=pdl)
            else:
                q, out = (b[:n].view(batch, share * g.heads, g.head_dim) for b in (self._q, self._seen))
                attention(q, k, v, out, lengths, bm=at.bm, bk=at.bk, stages=at.stages, warps=at.warps, pdl=pdl)
            add_out(seen, n, w.out, self.x, self._attended, pdl=pdl)
            geglu_linear(x, n, w.up, self._mlp, self._attended, pdl=pdl)
            add_down(mlp, n, w.down, self.x, self._done, pdl=pdl)
            before = self._done
        qkv_linear(x, n, last.qkv, before, self.rope, None, self.keys[-1, :batch], self.values[-1, :batch], share,
                   chunked=chunked, pdl=pdl)  # fmt: skip


class ExpertStage:
    """The flow loop. Own keys and values are written behind the robot's prefix, from lengths[b] on."""

    def __init__(self, model: PiModel, batch: int, key_rows: int, steps: int, dtype: torch.dtype, tune: Tuning,
                 pdl: bool, rope: tuple[Tensor, Tensor], rtc: str = "off"):  # fmt: skip
        """rtc: RuntimeConfig.rtc; `launch` must be given its tensors unless it is "off"."""
        geometry = model.geometry
        g = self._g = geometry.expert
        self._pdl, self._steps = pdl, steps
        self._tokens, self._state_token = geometry.suffix, int(geometry.model == "pi0")
        device = model.action_in_proj.weight.device
        self._layers = []
        for layer in model.expert.layers:
            self._layers.append(gemma_layer(layer, g.head_dim, dtype, alternate=True))
            drop(layer.self_attn, layer.mlp)
        self._turns, cond = turns(model, steps)
        ended = condition(model, [0.0]) if rtc == "trained" else None
        self._modulation = None if cond is None else modulations(model.expert, self._layers, cond, ended)
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
        held = rtc == "trained"
        if tune.resident and dtype == torch.bfloat16 and fits(geometry, device, held):
            mix, entering = (self._mix, self._entering[:BLOCK_ROWS]) if self._state_token else (None, None)
            self._resident = FlowLoop(self._layers, self._turns, self._modulation, mix, entering, rope, key_rows,
                                      self._tokens, steps, keep=batch > 1, held=held)  # fmt: skip
        self.retune(tune)

    def step_ms(self) -> list[float]:
        """Milliseconds of the flow steps that one kernel ran last: a trace shows the others itself."""
        return self._resident.step_ms() if self._resident else []

    def chunked(self, batch: int) -> bool:
        """Whether `batch` robots' keys and values must be in chunks."""
        return self._resident is not None and batch == 1

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
               rope: tuple[Tensor, Tensor], state: Tensor | None, rtc: Chunking | None = None) -> None:  # fmt: skip
        """x_t [B · H, A] fp32: noise in, actions out. `longest`: at least every lengths[b]; state [B, A] (π0).

        rtc: tensors on the device, read at every replay; contiguous, one row a robot: target [B, H, A] fp32; guided:
        weights [B, H] fp32, most [B] fp32; trained: delay [B] int32. Nothing is asked where weights or delay are 0.
        """
        tokens = self._tokens
        if self._state_token:
            w, b = self._state_proj
            self._entering[: batch * tokens].view(batch, tokens, -1)[:, 0] = state @ w.T + b
        if self.chunked(batch):
            self._resident.launch(x_t, lengths, keys, values, rtc)
            return
        first, *others = self._turns
        self._enter(first, None, x_t, batch, 0, rtc)
        delay = rtc.delay if isinstance(rtc, Committed) else None
        for step, following in enumerate(others):
            with phase("expert_step"):
                self._layers_of(step, batch, longest + tokens, lengths, keys, values, rope, delay)
                self._enter(following, following.leave, x_t, batch, step + 1, rtc)

    def _enter(self, heads, leave, x_t: Tensor, batch: int, step: int, rtc: Chunking | None) -> None:
        """Velocity out (if `leave`), tokens in (unless it was the last step)."""
        t, pdl = self._tune, self._pdl
        common = {"pdl": pdl, "tokens": self._tokens, "state": self._state_token, "rtc": rtc, "steps": self._steps}
        if leave:
            common["time"] = times(self._steps)[step - 1]
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

    def _layers_of(self, step: int, batch: int, longest: int, lengths: Tensor, keys, values, rope,
                   delay: Tensor | None) -> None:  # fmt: skip
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
                shift_qkv, shift_up, gate_out, gate_down, scale_up = (
                    here.shift,
                    after.shift,
                    here.gate,
                    after.gate,
                    after.scale,
                )
                scale_next = self._modulation[step][(i + 1) % depth][0].scale  # the last layer's is not read
            before = self._done if i else self._entered
            qkv(
                h,
                w.qkv,
                before,
                rope,
                q,
                k,
                v,
                tokens,
                t.expert_qkv,
                start=lengths,
                bias=shift_qkv,
                delay=delay,
                ahead=w.out if t.ahead else None,
                pdl=pdl,
            )
            split_attention(q.view(folded), k, v, seen.view(folded), lengths, g.heads, longest, self._answers,
                            self._weights, bm=at.bm, bk=at.bk, blocks=at.blocks, warps=at.warps, join_rows=at.join,
                            state=bool(self._state_token), ahead=w.up if t.ahead else None, pdl=pdl)  # fmt: skip
            residual(
                seen,
                w.out,
                x,
                h,
                gate_out,
                scale_up,
                self._attended,
                *work,
                t.expert_out,
                delay=delay,
                tokens=tokens,
                ahead=w.down if t.ahead else None,
                pdl=pdl,
            )
            linear(h, w.up, mlp, t.expert_up, stats_in=self._attended, bias=shift_up, geglu=True,
                   delay=delay, tokens=tokens, ahead=following.qkv if t.ahead else None, pdl=pdl)  # fmt: skip
            residual(mlp, w.down, x, h, gate_down, scale_next, self._done, *work, t.expert_down,
                     delay=delay, tokens=tokens, pdl=pdl)  # fmt: skip
