# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The whole flow loop of one robot as one kernel (flow_loop.cu, sm_90a, compiled at set-up by NVRTC). It equals

    def flow_loop_reference(model, prefix, x_t, state, steps, rtc):
        return model.flow.sample(model, prefix, x_t, state, steps, rtc)

Custom CUDA, because Triton has no way to ask for weights ahead of a wait across phases, nor to send sums from shared memory
to shared memory: docs/engine/flow_loop.md has the layouts and the reasons. The Triton stages do all other sizes and GPUs.

Layouts. A tile is [rows, 64] bf16 with the eight 16-byte chunks of a row permuted by `chunk ^ (row % 8)`. Activations
are a list of tiles, 64 columns each. Keys and values of 64 positions, a chunk, are four tiles [64 positions, 64 of D] each.
Weights: per layer and program, in the order in which it uses them; tiles of 72 rows, 9 groups of 8. Of 1024 columns (out,
down) a cluster has 72, of 512 columns of the MLP (1024 rows of gate and up) a program has 36; the last ones are filled up
with zeros. Program 8 c + r of cluster c: its eighth r of the inner axis of `out` and `down`, its part c of the r-th eighth of
gate and up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.kernels.cuda import SHARED, Kernel, available, kernel, mma
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance
from pi_vla_ros.model.rtc_schedule import strength

CLUSTERS, CTAS, COLUMNS, QKV_ROWS, TILE = 15, 120, 72, 24, 9216
THREADS, COUNTERS = 384, 128


def groups_of(tokens: int) -> int:
    """Groups of 8 rows in a block of activations."""
    return 7 if tokens <= 56 else 8


def built(tokens: int, state: bool, depth: int, held: bool) -> Kernel:
    """The kernel for up to `tokens` tokens, compiled once a process."""
    groups = groups_of(tokens)
    ring = (SHARED - 3072 - 16 * groups * 1024 - 1024) // TILE
    defines = {"GROUPS": groups, "STATE": int(state), "LAYERS": depth, "RING": ring, "HELD": int(held)}
    return kernel("flow_loop", tuple(defines.items()), (mma(24), mma(40), mma(64), mma(64, transposed=True)))


def fits(geometry, device: torch.device, held: bool) -> bool:
    """Whether the kernel can run this: Hopper, the published models' sizes, and all its clusters on the chip at once."""
    g = geometry.expert
    sizes = (g.width, g.mlp, g.heads, g.head_dim, geometry.action_dim, geometry.language.width % 256)
    if not available(device) or sizes != (1024, 4096, 8, 256, 32, 0) or geometry.suffix > 64:
        return False
    return built(geometry.suffix, geometry.model == "pi0", g.depth, held).clusters(8, THREADS) >= CLUSTERS


def tiles(w: Tensor, rows: int) -> Tensor:
    """w [N, K] -> [N / rows, K / 64, rows, 64], swizzled."""
    chunk, row = torch.arange(8, device=w.device), torch.arange(rows, device=w.device)
    order = chunk[None] ^ (row % 8)[:, None]  # its own inverse
    t = w.unflatten(0, (-1, rows)).unflatten(-1, (-1, 8, 8)).transpose(1, 2)  # [N/rows, K/64, rows, 8, 8]
    return torch.gather(t, 3, order[None, None, :, :, None].expand_as(t)).flatten(3)


def filled(w: Tensor, rows: int) -> Tensor:
    """w [..., n, K] with zeros behind: [..., rows, K]."""
    return torch.nn.functional.pad(w, (0, 0, 0, rows - w.shape[-2]))


def spread(w: Tensor, blocks: int) -> Tensor:
    """w [..., 72 n, K], rows in an order in which a thread of the tensor core's result, which holds rows 2 q and 2 q + 1 of
    every 8, has 2 · `blocks` neighbours of the first 64; the last 8 rows of 72 stay as they are."""
    t = w.unflatten(-2, (-1, COLUMNS))
    first = t[..., :64, :].unflatten(-2, (-1, 4, blocks, 2)).transpose(-4, -3).flatten(-5, -2)
    return torch.cat([first, t[..., 64:, :]], -2).flatten(-3, -2)


def by_depth(w: Tensor) -> Tensor:
    """w [1024, K] -> [120 programs, K / 512 tiles of 72 · 64]: a cluster's columns, a program's eighth of K."""
    t = tiles(spread(filled(w, CLUSTERS * COLUMNS), 2), COLUMNS)  # [15, K / 64, 72, 64]
    return t.unflatten(1, (8, -1)).flatten(0, 1).flatten(1)


def turned(t: Tensor) -> Tensor:
    """[120 programs, 16 blocks of the inner axis, ...]: those of rank r start at block 2 r, as the activations do."""
    return torch.stack([program.roll(-2 * (i % 8), 0) for i, program in enumerate(t)])


def as_held(out: Tensor) -> Tensor:
    """out [1024, 2048], columns in the order in which answers travel: of 32, a thread of the tensor core's result holds 4
    pairs, 8 columns apart."""
    return out.unflatten(1, (-1, 4, 4, 2)).transpose(2, 3).flatten(1)


def packed_layer(qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Everything a layer streams, [120 programs, elements]."""
    first = turned(tiles(filled(qkv, CTAS * QKV_ROWS), QKV_ROWS)).flatten(1)
    up = spread(filled(up.unflatten(0, (8, -1)), CLUSTERS * COLUMNS), 4)  # [8, 1080, W]
    up = turned(torch.stack([tiles(t, COLUMNS) for t in up], 1).flatten(0, 1)).flatten(1)
    return torch.cat([first, by_depth(as_held(out)), up, by_depth(down)], 1)


class FlowLoop:
    """Packed weights, tables and buffers of one model; `launch` enqueues one run. Expects batch 1."""

    def __init__(self, layers, turns, modulation, mix: Tensor | None, entering: Tensor | None, rope, key_rows: int,
                 tokens: int, steps: int, keep: bool, held: bool = False):  # fmt: skip
        """layers: GemmaLayer list, emptied unless `keep`; turns, modulation: engine/fused/weights.py; mix, entering:
        π0's last product before the layers, [W, W] and its constant part [64, W]; held: the modulations are of two
        times, and runs have committed actions (π0.5)."""
        device = rope[0].device
        self._kernel = built(tokens, mix is not None, len(layers), held)
        bf16, f32 = {"device": device, "dtype": torch.bfloat16}, {"device": device, "dtype": torch.float32}
        block = groups_of(tokens) * 512  # elements of 64 columns
        self._counters = torch.zeros(COUNTERS * 32, device=device, dtype=torch.int32)
        self._stamps = torch.zeros(steps + 1, device=device, dtype=torch.int64)

        none = torch.zeros(1, **f32)
        enter_w = turns[0].enter[0].T.contiguous()
        enter_b = torch.stack([t.enter[1] for t in turns[:-1]])
        leave_w, leave_b = (torch.stack([t.leave[i] for t in turns[1:]]).contiguous() for i in range(2))
        scale = gate = shift_qkv = shift_up = none
        if modulation:
            flat = [m for step in modulation for pair in step for m in pair]
            scale = torch.stack([m.scale for m in flat])
            gate = torch.stack([m.gate for m in flat])
            shift_qkv, shift_up = (torch.stack([m.shift for m in flat[i::2]]) for i in range(2))
        weights = []
        for w in layers:  # one by one: the memory of a layer is the next one's
            weights.append(packed_layer(w.qkv, w.out, w.up, w.down))
            if not keep:
                w.qkv = w.out = w.up = w.down = None
        self._keep = [  # in the order of struct Params
            *weights,
            none if mix is None else by_depth(mix.to(torch.bfloat16)).contiguous(),
            *(torch.zeros(n * block, **bf16) for n in (16, 32, 32, 64, 16)),  # h, q, att, act, mixed
            torch.zeros(64, 16, **f32), torch.zeros(64, 1024, **f32),  # ss, xg
            shift_qkv, shift_up, scale, gate, leave_w, leave_b, enter_w, enter_b.contiguous(), *rope,
            none if entering is None else entering,
            torch.tensor([strength(t) for t in times(steps)], **f32), self._counters,
            self._stamps,
        ]  # fmt: skip
        sizes = [-(-key_rows // 64), steps, tokens]
        self._params = torch.tensor([t.data_ptr() for t in self._keep] + sizes, dtype=torch.int64).to(device)

    def launch(self, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, rtc: Chunking | None) -> None:
        """x_t [H, A] in place; lengths [≥ 1] int32; keys, values: the first robot's of [layers, ≥ 1, rows, D], in chunks;
        rtc: tensors on the device, the first robot's are read at every run; Committed just where built with `held`."""
        self._counters.zero_()
        guidance, committed = (rtc if isinstance(rtc, kind) else None for kind in (Guidance, Committed))
        asked = (
            rtc and rtc.target,
            guidance and guidance.weights,
            guidance and guidance.most,
            committed and committed.delay,
        )
        self._kernel(CTAS, THREADS, [self._params, x_t, lengths, keys, values, keys.stride(0) // (64 * 256), *asked])

    def step_ms(self) -> list[float]:
        """Milliseconds of each flow step of the last run, by the GPU's clock; waits for the GPU."""
        return (self._stamps.diff() * 1e-6).tolist()
