# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The passes as launches of kernels over static buffers: vision and prefix here, the expert in expert_stage.py.

A stage owns its packed weights and its buffers, sized for the largest batch; `launch` enqueues the kernels for the
sizes at hand and allocates nothing. Every kernel is chained to the one before it (kernels/common.py).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pi_vla_ros.engine.fused.tuning import Tuning
from pi_vla_ros.engine.fused.weights import drop, for_hopper, gemma_layer, kept, norm_of, vision_layer
from pi_vla_ros.engine.phases import phase
from pi_vla_ros.kernels.attention import attention
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.embed import patches, text
from pi_vla_ros.kernels.geglu import geglu, row_sums
from pi_vla_ros.kernels.hopper_attention import chunk_attention, queries_map
from pi_vla_ros.kernels.hopper_columns import better_by_columns, residual_columns
from pi_vla_ros.kernels.hopper_linear import Rows, geglu_linear, qkv_linear, qkv_width, residual_linear
from pi_vla_ros.kernels.layer_norm import layer_norm
from pi_vla_ros.kernels.linear import Stats, Tile, linear
from pi_vla_ros.kernels.qkv import qkv, rope_tables
from pi_vla_ros.kernels.vision_attention import vision_attention
from pi_vla_ros.model.pi import PiModel


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

    def launch(self, words: Tensor, seen_rows: int, lengths: Tensor, chunked: bool = False,
               ready: Tensor | None = None) -> None:  # fmt: skip
        """words [B, prompt, W]: the prompts' rows of the token embedding; seen_rows: camera tokens of a robot, there
        already; lengths [B] int32: rows that count.

        chunked: keys and values as the expert's resident kernel wants them (one robot on Hopper); ready [1] int32: then
        counts the layers, but the last, whose keys and values are there."""
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
            self._launch_on_hopper(batch, share, lengths, chunked, ready)
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

    def _launch_on_hopper(self, batch: int, share: int, lengths: Tensor, chunked: bool,
                          ready: Tensor | None) -> None:  # fmt: skip
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
                chunk_attention(self._queries, n * g.heads, k, v, self._seen, lengths, ready, pdl=pdl)
            else:
                q, out = (b[:n].view(batch, share * g.heads, g.head_dim) for b in (self._q, self._seen))
                attention(q, k, v, out, lengths, bm=at.bm, bk=at.bk, stages=at.stages, warps=at.warps, pdl=pdl)
            add_out(seen, n, w.out, self.x, self._attended, pdl=pdl)
            geglu_linear(x, n, w.up, self._mlp, self._attended, pdl=pdl)
            add_down(mlp, n, w.down, self.x, self._done, pdl=pdl)
            before = self._done
        qkv_linear(x, n, last.qkv, before, self.rope, None, self.keys[-1, :batch], self.values[-1, :batch], share,
                   chunked=chunked, pdl=pdl)  # fmt: skip
