# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The whole flow loop of one robot as one kernel (flow_loop.cu, sm_90a, compiled at set-up by NVRTC). It equals

    def flow_loop_reference(model, prefix, x_t, state, steps):
        return model.flow.sample(model, prefix, x_t, state, steps)

Custom CUDA, because Triton has no way to ask for weights ahead of a wait across phases: six chained Triton kernels a
layer took 37 µs on an H200, this kernel's record is in docs/engine/. The Triton stages do all other sizes and GPUs.

Layouts. A tile is [rows, 64] bf16 with the eight 16-byte chunks of a row permuted by `chunk ^ (row % 8)`. Activations
are a list of tiles, 64 columns each. Keys of 64 positions are four tiles [64 keys, 64 of D], their values, transposed,
four tiles [64 of D, 64 keys]. Weights: per layer and program, in the order in which it uses them.
"""

from __future__ import annotations

from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain

CTAS, QKV_CTAS, QKV_ROWS, SLOT = 128, 107, 24, 8192
COUNTERS = 128
SHARED = 232448  # bytes of shared memory that a program may have (sm_90)


def fits(geometry, batch: int, device: torch.device) -> bool:
    """Whether the kernel can run this: sizes are those of the published models, one robot, Hopper."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0) or batch != 1:
        return False
    if not hasattr(torch.cuda, "_compile_kernel"):  # PyTorch's door to NVRTC, not yet a public one
        return False
    g, chip = geometry.expert, torch.cuda.get_device_properties(device)
    sizes = (g.width, g.mlp, g.heads, g.head_dim, geometry.action_dim)
    return sizes == (1024, 4096, 8, 256, 32) and geometry.suffix <= 64 and chip.multi_processor_count >= CTAS


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
    return torch.cat(
        [first, by_program(tiles(out, 64), 8), tiles(up, 64).flatten(1), by_program(tiles(down, 64), 8)], 1
    )


@triton.jit
def chunks_kernel(
    keys, values, key_chunks, value_chunks, lengths, layer_stride, chunks, D: tl.constexpr, PDL: tl.constexpr
):
    """The prefix's keys and values in the layout above. What is no key of the prefix becomes 0: a masked score has
    weight 0, and 0 times whatever stood there before might be NaN."""
    chain(PDL)
    chunk, layer = tl.program_id(0), tl.program_id(1)
    place, d = tl.arange(0, 64)[:, None], tl.arange(0, D)[None, :]
    key = chunk * 64 + place
    at = layer * layer_stride + key * D + d
    some = key < tl.load(lengths)
    k, v = tl.load(keys + at, mask=some, other=0.0), tl.load(values + at, mask=some, other=0.0)
    base = (layer * chunks + chunk) * (64 * D)
    tl.store(key_chunks + base + ((d // 64) * 64 + place) * 64 + ((d % 64 // 8) ^ (place % 8)) * 8 + d % 8, k)
    tl.store(value_chunks + base + d * 64 + ((place // 8) ^ (d % 8)) * 8 + place % 8, v)


class FlowLoop:
    """Packed weights, tables and buffers of one model; `launch` enqueues one run. Expects batch 1."""

    def __init__(self, layers, turns, modulation, mix: Tensor | None, entering: Tensor | None, rope, key_rows: int,
                 tokens: int, steps: int):  # fmt: skip
        """layers: GemmaLayer list; turns, modulation: engine/fused/weights.py; mix, entering: π0's last product
        before the layers, [W, W] and its constant part [64, W]."""
        device = rope[0].device
        self._state = int(mix is not None)
        self._tokens, self._steps, self._depth = tokens, steps, len(layers)
        groups = 7 if tokens <= 56 else 8
        activations = 16 * groups * 1024 + 1024
        ring = (SHARED - 1024 - activations - 1024) // SLOT
        source = (Path(__file__).parent / "flow_loop.cu").read_text()
        defines = {"GROUPS": groups, "STATE": self._state, "LAYERS": self._depth, "RING": ring}
        source = (
            "".join(f"#define {k} {v}\n" for k, v in defines.items())
            + "#define INFINITY __int_as_float(0x7f800000)\n"
            + source
        )
        self._kernel = torch.cuda._compile_kernel(source, "flow_loop", compute_capability="90a")
        self._kernel.set_shared_memory_config(SHARED)

        self._chunks = triton.cdiv(key_rows, 64)
        bf16, f32 = {"device": device, "dtype": torch.bfloat16}, {"device": device, "dtype": torch.float32}
        block = groups * 512  # elements of 64 columns
        self._key_chunks = torch.zeros(self._depth, self._chunks, 64 * 256, **bf16)
        self._value_chunks = torch.zeros_like(self._key_chunks)
        self._counters = torch.zeros(COUNTERS * 32, device=device, dtype=torch.int32)
        self._x_t = torch.zeros(tokens, 32, **f32)
        self._lengths = torch.zeros(1, device=device, dtype=torch.int32)
        self.entering = entering

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
        self._keep = [  # in the order of struct Params
            torch.stack([packed_layer(w.qkv, w.out, w.up, w.down) for w in layers]),
            none if mix is None else by_program(tiles(mix.to(torch.bfloat16), 64), 8).contiguous(),
            self._key_chunks, self._value_chunks,
            *(torch.zeros(n * block, **bf16) for n in (16, 32, 32, 64, 16)),  # h, q, att, act, mixed
            torch.zeros(8 * self._chunks, 64, 256, **f32), torch.zeros(8 * self._chunks, 64, 2, **f32),  # part, ml
            torch.zeros(CTAS, 64, 64, **f32), torch.zeros(CTAS, 64, 64, **f32),  # opart, dpart
            torch.zeros(64, CTAS, **f32), torch.zeros(64, 1024, **f32),  # ss, xg
            self._x_t, shift_qkv, shift_up, scale, gate, leave_w, leave_b, enter_w, enter_b.contiguous(), *rope,
            none if entering is None else entering, self._lengths, self._counters,
        ]  # fmt: skip
        sizes = [self._chunks, steps, tokens]
        self._params = torch.tensor([t.data_ptr() for t in self._keep] + sizes, dtype=torch.int64).to(device)

    def launch(self, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, pdl: bool) -> None:
        """x_t [H, A] in place; lengths [≥ 1] int32; keys, values [layers, ≥ 1, key_rows, D]: the first robot's."""
        chunks_kernel[(self._chunks, self._depth)](
            keys,
            values,
            self._key_chunks,
            self._value_chunks,
            lengths,
            keys.stride(0),
            self._chunks,
            256,
            pdl,
            launch_pdl=pdl,
        )
        self._x_t[: len(x_t)].copy_(x_t)
        self._lengths.copy_(lengths[:1])
        self._counters.zero_()
        self._kernel(grid=(CTAS, 1, 1), block=(384, 1, 1), args=[self._params], shared_mem=SHARED)
        x_t.copy_(self._x_t[: len(x_t)])
