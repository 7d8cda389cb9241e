# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The whole flow loop of one robot as one kernel (flow_loop.cu, sm_90a, compiled at set-up by NVRTC). It equals

    def flow_loop_reference(model, prefix, x_t, state, steps, guidance):
        return model.flow.sample(model, prefix, x_t, state, steps, guidance)

Custom CUDA, because Triton has no way to ask for weights ahead of a wait across phases: six chained Triton kernels a
layer took 37 µs on an H200, this kernel's record is in docs/engine/. The Triton stages do all other sizes and GPUs.

Layouts. A tile is [rows, 64] bf16 with the eight 16-byte chunks of a row permuted by `chunk ^ (row % 8)`. Activations
are a list of tiles, 64 columns each. Keys and values of 64 positions, a chunk, are four tiles [64 positions, 64 of D] each.
Weights: per layer and program, in the order in which it uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.kernels.cuda import SHARED, Kernel, available, mma
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.rtc import Guidance
from pi_vla_ros.model.rtc_schedule import strength

CTAS, QKV_CTAS, QKV_ROWS, SLOT = 128, 107, 24, 8192
COUNTERS = 128


def fits(geometry, device: torch.device) -> bool:
    """Whether the kernel can run this: sizes are those of the published models, Hopper."""
    if not available(device) or torch.cuda.get_device_properties(device).multi_processor_count < CTAS:
        return False
    g = geometry.expert
    sizes = (g.width, g.mlp, g.heads, g.head_dim, geometry.action_dim, geometry.language.width % 256)
    return sizes == (1024, 4096, 8, 256, 32, 0) and geometry.suffix <= 64


def tiles(w: Tensor, rows: int) -> Tensor:
    """w [N, K] -> [N / rows, K / 64, rows, 64], swizzled."""
    chunk, row = torch.arange(8, device=w.device), torch.arange(rows, device=w.device)
    order = chunk[None] ^ (row % 8)[:, None]  # its own inverse
    t = w.unflatten(0, (-1, rows)).unflatten(-1, (-1, 8, 8)).transpose(1, 2)  # [N/rows, K/64, rows, 8, 8]
    return torch.gather(t, 3, order[None, None, :, :, None].expand_as(t)).flatten(3)


def by_program(t: Tensor, pieces: int) -> Tensor:
    """Tiles [16 columns, pieces · n, 64, 64] -> [pieces · 16 programs, n · 64 · 64]."""
    return t.unflatten(1, (pieces, -1)).transpose(0, 1).flatten(0, 1).flatten(1)


def packed_layer(qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Everything a layer streams, [128 programs, elements]."""
    rows = QKV_CTAS * QKV_ROWS
    qkv = torch.cat([qkv, qkv.new_zeros(rows - len(qkv), qkv.shape[1])])
    first = tiles(qkv, QKV_ROWS).flatten(1)
    first = torch.cat([first, first.new_zeros(CTAS - QKV_CTAS, first.shape[1])])
    # a thread of the tensor core's result holds rows 2q, 2q + 1 of every 8: let these be gate and up of 4 neighbours
    up = up.unflatten(0, (-1, 4, 4, 2)).transpose(1, 2).flatten(0, 3)
    out, down = (by_program(tiles(w, 64), 8) for w in (out, down))
    return torch.cat([first, out, tiles(up, 64).flatten(1), down], 1)


class FlowLoop:
    """Packed weights, tables and buffers of one model; `launch` enqueues one run. Expects batch 1."""

    def __init__(self, layers, turns, modulation, mix: Tensor | None, entering: Tensor | None, rope, key_rows: int,
                 tokens: int, steps: int, keep: bool):  # fmt: skip
        """layers: GemmaLayer list, emptied unless `keep`; turns, modulation: engine/fused/weights.py; mix, entering:
        π0's last product before the layers, [W, W] and its constant part [64, W]."""
        device = rope[0].device
        self._state = int(mix is not None)
        self._depth = len(layers)
        groups = 7 if tokens <= 56 else 8
        activations = 16 * groups * 1024 + 1024
        ring = (SHARED - 1024 - activations - 1024) // SLOT
        defines = {"GROUPS": groups, "STATE": self._state, "LAYERS": self._depth, "RING": ring}
        wrappers = mma(24), mma(32), mma(64), mma(64, "regs", transposed=True)
        self._kernel = Kernel("flow_loop", defines, wrappers)

        self._chunks = -(-key_rows // 64)
        bf16, f32 = {"device": device, "dtype": torch.bfloat16}, {"device": device, "dtype": torch.float32}
        block = groups * 512  # elements of 64 columns
        self._counters = torch.zeros(COUNTERS * 32, device=device, dtype=torch.int32)

        none = torch.zeros(1, **f32)
        enter_w = turns[0].enter[0].T.contiguous()
        enter_b = torch.stack([t.enter[1] for t in turns[:-1]])
        leave_w, leave_b = (torch.stack([t.leave[i] for t in turns[1:]]).contiguous() for i in range(2))
        scale = gate = shift_qkv = shift_up = none
        if modulation:
            flat = [m for step in modulation for pair in step for m in pair]
            scale = torch.stack([*(m.scale for m in flat), torch.zeros_like(flat[0].scale)])
            gate = torch.stack([m.gate for m in flat])
            shift_qkv, shift_up = (torch.stack([m.shift for m in flat[i::2]]) for i in range(2))
        weights = []
        for w in layers:  # one by one: the memory of a layer is the next one's
            weights.append(packed_layer(w.qkv, w.out, w.up, w.down))
            if not keep:
                w.qkv = w.out = w.up = w.down = None
        self._keep = [  # in the order of struct Params
            *weights,
            none if mix is None else by_program(tiles(mix.to(torch.bfloat16), 64), 8).contiguous(),
            *(torch.zeros(n * block, **bf16) for n in (16, 32, 32, 64, 16)),  # h, q, att, act, mixed
            torch.zeros(8 * self._chunks, 64, 256, **f32), torch.zeros(8 * self._chunks, 64, 2, **f32),  # part, ml
            *(torch.zeros(CTAS, 64, 64, **f32) for _ in range(2)),  # opart, dpart
            torch.zeros(64, CTAS, **f32), torch.zeros(64, 1024, **f32),  # ss, xg
            shift_qkv, shift_up, scale, gate, leave_w, leave_b, enter_w, enter_b.contiguous(), *rope,
            none if entering is None else entering,
            torch.tensor([strength(t) for t in times(steps)], **f32), self._counters,
        ]  # fmt: skip
        sizes = [self._chunks, steps, tokens]
        self._params = torch.tensor([t.data_ptr() for t in self._keep] + sizes, dtype=torch.int64).to(device)

    def launch(self, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, guidance: Guidance | None) -> None:
        """x_t [H, A] in place; lengths [≥ 1] int32; keys, values: the first robot's of [layers, ≥ 1, rows, D], in chunks;
        guidance: tensors on the device, the first robot's are read at every run."""
        self._counters.zero_()
        asked = (guidance.target, guidance.weights, guidance.most) if guidance else (None, None, None)
        self._kernel(CTAS, 384, [self._params, x_t, lengths, keys, values, keys.stride(0) // (64 * 256), *asked])
