# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The expert's pass as launches of kernels over static buffers (stages.py): one resident kernel where it fits, of whose
first step some layers run beside the prefix already, else a few kernels a layer: on Hopper in CUDA where several robots'
tokens fit into them, else Triton's."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pi_vla_ros.engine.fused.stages import statistics
from pi_vla_ros.engine.fused.tuning import Tuning
from pi_vla_ros.engine.fused.weights import condition, drop, gemma_layer, modulations, turns
from pi_vla_ros.engine.phases import phase
from pi_vla_ros.kernels import expert_linear, flow_ahead
from pi_vla_ros.kernels.attention import split_attention
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.expert_attention import expert_attention
from pi_vla_ros.kernels.expert_linear import expert_geglu, expert_qkv, expert_residual
from pi_vla_ros.kernels.flow_loop import FlowLoop, fits
from pi_vla_ros.kernels.heads import turn
from pi_vla_ros.kernels.linear import linear
from pi_vla_ros.kernels.qkv import qkv
from pi_vla_ros.kernels.residual import residual
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import Chunking, Committed

BLOCK_ROWS = 64  # buffers of the expert hold whole tiles of rows


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
        self._hopper = dtype == torch.bfloat16 and available(device) and (g.head_dim, g.heads) == (256, 8)
        self._queries, self._key_rows = batch * self._tokens * g.heads, key_rows
        self._resident = None
        held = rtc == "trained"
        # as self._attended and self._done, where the products are in CUDA
        self._sums = [statistics(g.width, expert_linear.SUMMED, rows, device) for _ in range(2)]
        if self.in_cuda(batch):
            expert_linear.begin(batch * self._tokens, held)
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

    def in_cuda(self, batch: int) -> bool:
        """Whether `batch` robots' products, of the kernels that are not resident, are in CUDA."""
        return self._hopper and expert_linear.fits(batch, self._tokens, self._g)

    def layers_ahead(self, batch: int, rows: int) -> int:
        """How many layers of the first flow step `ahead` does while a prefix of `rows` rows is at work."""
        return flow_ahead.layers_ahead(rows, len(self._layers)) if self.chunked(batch) else 0

    def retune(self, tune: Tuning) -> None:
        self._tune, g = tune, self._g
        rows, device = len(self._x), self._x.device
        at = tune.expert_attention
        pieces = 0 if self._hopper else triton.cdiv(self._key_rows, at.bk * at.blocks)
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

    def begin(self, first: int) -> Tensor:
        """Before the prefix, if `ahead` is to run beside it; returns what the prefix counts its layers in."""
        self._resident.begin(first)
        return self._resident.ready

    def ahead(self, first: int, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, state: Tensor | None,
              rtc: Chunking | None) -> None:  # fmt: skip
        """The first flow step's layers before `first`, of one robot, each as soon as the prefix has it; as `launch`."""
        self._take(state, 1)
        self._resident.ahead(x_t, lengths, keys, values, rtc, first)

    def launch(self, x_t: Tensor, batch: int, longest: int, lengths: Tensor, keys: Tensor, values: Tensor,
               rope: tuple[Tensor, Tensor], state: Tensor | None, rtc: Chunking | None = None,
               first: int = 0) -> None:  # fmt: skip
        """x_t [B · H, A] fp32: noise in, actions out. `longest`: at least every lengths[b]; state [B, A] (π0).

        rtc: tensors on the device, read at every replay; contiguous, one row a robot: target [B, H, A] fp32; guided:
        weights [B, H] fp32, most [B] fp32; trained: delay [B] int32. Nothing is asked where weights or delay are 0.
        first: layers of the first step that `begin` and `ahead` were asked for.
        """
        tokens = self._tokens
        if not first:
            self._take(state, batch)
        if self.chunked(batch):
            if not first:
                self._resident.begin()
            self._resident.launch(x_t, lengths, keys, values, rtc, first)
            return
        entry, *others = self._turns
        self._enter(entry, None, x_t, batch, 0, rtc)
        delay = rtc.delay if isinstance(rtc, Committed) else None
        for step, following in enumerate(others):
            with phase("expert_step"):
                self._layers_of(step, batch, longest + tokens, lengths, keys, values, rope, delay)
                self._enter(following, following.leave, x_t, batch, step + 1, rtc)

    def _take(self, state: Tensor | None, batch: int) -> None:
        """The robots' state tokens (π0), among the constant parts of what enters the layers."""
        if self._state_token:
            w, b = self._state_proj
            self._entering[: batch * self._tokens].view(batch, self._tokens, -1)[:, 0] = state @ w.T + b

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
        depth, in_cuda = len(self._layers), self.in_cuda(batch)
        attended, done = self._sums if in_cuda else (self._attended, self._done)
        common = {"delay": delay, "tokens": tokens, "pdl": pdl}
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
            before = done if i else self._entered
            cache = {"start": lengths, "bias": shift_qkv, "delay": delay, "pdl": pdl}
            if in_cuda:
                expert_qkv(h, w.qkv, before, rope, q, k, v, tokens, **cache)
            else:
                ahead = w.out if t.ahead else None
                qkv(h, w.qkv, before, rope, q, k, v, tokens, t.expert_qkv, ahead=ahead, **cache)
            state = bool(self._state_token)
            if self._hopper:
                expert_attention(q.view(folded), k, v, seen.view(folded), lengths, state=state, pdl=pdl)
            else:
                split_attention(q.view(folded), k, v, seen.view(folded), lengths, g.heads, longest, self._answers,
                                self._weights, bm=at.bm, bk=at.bk, blocks=at.blocks, warps=at.warps,
                                join_rows=at.join, state=state, ahead=w.up if t.ahead else None, pdl=pdl)  # fmt: skip
            if in_cuda:
                expert_residual(seen, w.out, x, h, gate_out, scale_up, attended, **common)
                expert_geglu(h, w.up, mlp, attended, bias=shift_up, **common)
                expert_residual(mlp, w.down, x, h, gate_down, scale_next, done, **common)
            else:
                ahead = w.down if t.ahead else None
                residual(seen, w.out, x, h, gate_out, scale_up, attended, *work, t.expert_out, ahead=ahead, **common)
                ahead = following.qkv if t.ahead else None
                linear(h, w.up, mlp, t.expert_up, stats_in=attended, bias=shift_up, geglu=True, ahead=ahead, **common)
                residual(mlp, w.down, x, h, gate_down, scale_next, done, *work, t.expert_down, **common)
