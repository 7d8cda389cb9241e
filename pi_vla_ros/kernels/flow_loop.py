# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The whole flow loop of one robot as one kernel (flow_loop.cu, sm_90a, compiled at set-up by NVRTC). It equals

    def flow_loop_reference(model, prefix, x_t, state, steps, rtc):
        return model.flow.sample(model, prefix, x_t, state, steps, rtc)

Custom CUDA, because Triton has no way to ask for weights ahead of a wait across phases, nor to send sums from shared memory
to shared memory: docs/engine/flow_loop.md has the layouts and the reasons. The Triton stages do all other sizes and GPUs.

Layouts. A tile is [rows, 64] bf16 with the eight 16-byte chunks of a row permuted by `chunk ^ (row % 8)`. Activations
are a list of tiles, 64 columns each. Keys and values of 64 positions, a chunk, are four tiles [64 positions, 64 of D] each.
Weights: per layer and program, in the order in which it uses them; tiles of 72 rows, 9 groups of 8 (QKV: 48). The columns of
a product belong to a team of neighbours, each of which has a part of the inner axis: `out` and `down` 72 columns to a
cluster, the r-th eighth to its program r; QKV 96 to four programs; gate and up 72 columns of a quarter of the MLP (144 packed
rows) to two. The last columns are filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.kernels import flow_ahead
from pi_vla_ros.kernels.cuda import SHARED, Kernel, available, kernel, mma
from pi_vla_ros.model.flow import times
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance
from pi_vla_ros.model.rtc_schedule import strength

CLUSTERS, CTAS, COLUMNS, QKV_COLUMNS, TILE = 15, 120, 72, 48, 9216
THREADS, COUNTERS = 384, 128
C_TURN, C_QKV, C_O, C_DOWN, C_ENTER, C_ATT, C_ACT, C_AHEAD, C_READY = 0, 1, 2, 3, 4, 5, 13, 17, 18  # flow.cuh
QKV_TEAM, UP_TEAM = 4, 2  # neighbours of a cluster that have the same columns


def groups_of(tokens: int) -> int:
    """Groups of 8 rows in a block of activations."""
    return 7 if tokens <= 56 else 8


def built(tokens: int, state: bool, depth: int, held: bool) -> Kernel:
    """The kernel for up to `tokens` tokens, compiled once a process; returns at once."""
    groups = groups_of(tokens)
    received = 32768 + 2 * 18432  # bytes of answers, parts, addends of other programs
    ring = (SHARED - 3072 - 4 * groups * 1024 - received) // TILE
    defines = {"GROUPS": groups, "STATE": int(state), "LAYERS": depth, "RING": ring, "HELD": int(held)}
    widths = QKV_COLUMNS, 40, COLUMNS, 64
    return kernel("flow_loop", tuple(defines.items()), (*map(mma, widths), mma(64, transposed=True)))


def begun(geometry, device: torch.device, held: bool) -> Kernel | None:
    """The kernel for a model, which is being compiled, and flow_ahead's; None where it is not for this: Hopper, the published
    sizes."""
    g, language, tokens = geometry.expert, geometry.language, geometry.suffix
    sizes = (g.width, g.mlp, g.heads, g.head_dim, geometry.action_dim, language.width % 256, language.mlp % 256)
    if not available(device) or sizes != (1024, 4096, 8, 256, 32, 0, 0) or tokens > 64:
        return None
    state = geometry.model == "pi0"
    flow_ahead.built(groups_of(tokens), state, g.depth, held)
    return built(tokens, state, g.depth, held)


def fits(geometry, device: torch.device, held: bool) -> bool:
    """Whether there is a kernel for a model, and all its clusters are on the chip at once; waits for it."""
    run = begun(geometry, device, held)
    return run is not None and run.clusters(8, THREADS) >= CLUSTERS


def tiles(w: Tensor, rows: int) -> Tensor:
    """w [N, K] -> [N / rows, K / 64, rows, 64], swizzled."""
    chunk, row = torch.arange(8, device=w.device), torch.arange(rows, device=w.device)
    order = chunk[None] ^ (row % 8)[:, None]  # its own inverse
    t = w.unflatten(0, (-1, rows)).unflatten(-1, (-1, 8, 8)).transpose(1, 2)  # [N/rows, K/64, rows, 8, 8]
    return torch.gather(t, 3, order[None, None, :, :, None].expand_as(t)).flatten(3)


def filled(w: Tensor, rows: int) -> Tensor:
    """w [..., n, K] with zeros behind: [..., rows, K]."""
    return torch.nn.functional.pad(w, (0, 0, 0, rows - w.shape[-2]))


def spread(w: Tensor, rows: int, blocks: int) -> Tensor:
    """w [..., n · rows, K], rows in an order in which a thread of the tensor core's result, which holds rows 2 q and 2 q + 1
    of every 8, has 2 · `blocks` neighbours of all but 8 of every `rows`; the last 8 stay as they are."""
    t = w.unflatten(-2, (-1, rows))
    first = t[..., :-8, :].unflatten(-2, (-1, 4, blocks, 2)).transpose(-4, -3).flatten(-5, -2)
    return torch.cat([first, t[..., -8:, :]], -2).flatten(-3, -2)


def by_depth(w: Tensor) -> Tensor:
    """w [1024, K] -> [120 programs, K / 512 tiles of 72 · 64]: a cluster's columns, a program's eighth of K."""
    t = tiles(spread(filled(w, CLUSTERS * COLUMNS), COLUMNS, 2), COLUMNS)  # [15, K / 64, 72, 64]
    return t.unflatten(1, (8, -1)).flatten(0, 1).flatten(1)


def in_teams(t: Tensor, size: int) -> Tensor:
    """t [teams, warpgroups, 16 blocks of the inner axis, elements] -> [120 programs, elements]: a program of a team has a part
    of the inner axis; team i begins at block i of it, as the activations do."""
    t = t.unflatten(2, (size, -1)).permute(0, 2, 3, 1, 4)  # [teams, programs, blocks, warpgroups, elements]
    return torch.stack([team.roll(-i, 1) for i, team in enumerate(t)]).flatten(2).flatten(0, 1)


def as_held(out: Tensor) -> Tensor:
    """out [1024, 2048], columns in the order in which answers travel: of 32, a thread of the tensor core's result holds 4
    pairs, 8 columns apart."""
    return out.unflatten(1, (-1, 4, 4, 2)).transpose(2, 3).flatten(1)


def packed_layer(qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Everything a layer streams, [120 programs, elements]."""
    qkv = spread(filled(qkv, CTAS // QKV_TEAM * 2 * QKV_COLUMNS), QKV_COLUMNS // 2, 2)
    qkv = in_teams(tiles(qkv, QKV_COLUMNS).flatten(2).unflatten(0, (-1, 2)), QKV_TEAM)
    up = filled(up.unflatten(0, (8 // UP_TEAM, -1)), CLUSTERS * 2 * COLUMNS)
    up = up.unflatten(1, (CLUSTERS, -1)).transpose(0, 1)  # [15, 4, 144, W]
    halves = [torch.cat([up[:, :, 64 * g : 64 * g + 64], up[:, :, 128 + 8 * g : 136 + 8 * g]], 2) for g in range(2)]
    up = spread(torch.stack(halves, 2).flatten(0, 3), COLUMNS, 8)
    up = in_teams(tiles(up, COLUMNS).flatten(2).unflatten(0, (-1, 2)), UP_TEAM)
    return torch.cat([qkv, by_depth(as_held(out)), up, by_depth(down)], 1)


class FlowLoop:
    """Packed weights, tables and buffers of one model; `begin` and `launch` enqueue one run. Expects batch 1."""

    def __init__(self, layers, turns, modulation, mix: Tensor | None, entering: Tensor | None, rope, key_rows: int,
                 tokens: int, steps: int, keep: bool, held: bool = False):  # fmt: skip
        """layers: GemmaLayer list, emptied unless `keep`; turns, modulation: engine/fused/weights.py; mix, entering:
        π0's last product before the layers, [W, W] and its constant part [64, W]; held: the modulations are of two
        times, and runs have committed actions (π0.5)."""
        device = rope[0].device
        state, depth = mix is not None, len(layers)
        self._kernel = built(tokens, state, depth, held)
        self._ahead = flow_ahead.built(groups_of(tokens), state, depth, held)
        self._entering = tokens - state, CTAS * state  # what counts a step's tokens: C_TURN, C_ENTER
        bf16, f32 = {"device": device, "dtype": torch.bfloat16}, {"device": device, "dtype": torch.float32}
        block = groups_of(tokens) * 512  # elements of 64 columns
        self._counters = torch.zeros(COUNTERS * 32, device=device, dtype=torch.int32)
        self._starts: dict[int, Tensor] = {}  # of the counters
        self.ready = self._counters[C_READY * 32 :][:1]  # layers of the prefix that are there, counted if asked
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

    def begin(self, first: int = 0) -> None:
        """Comes before all else of a run. first: layers of the first step that `ahead` does; the counters stand as if the
        kernel had done them. A new one allocates."""
        if first not in self._starts:
            starts = torch.zeros(COUNTERS, 32, dtype=torch.int32)
            starts[C_TURN, 0], starts[C_ENTER, 0] = self._entering if first else (0, 0)
            starts[[C_QKV, C_O, C_DOWN], 0] = CTAS * first
            starts[C_ATT:C_ACT, 0], starts[C_ACT:C_AHEAD, 0] = 8 * first, UP_TEAM * CLUSTERS * first
            self._starts[first] = starts.flatten().to(self._counters.device)
        self._counters.copy_(self._starts[first])

    def ahead(
        self, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, rtc: Chunking | None, first: int
    ) -> None:
        """The first step's layers before `first`, beside the prefix, which counts `ready` up when it has a layer's keys and
        values (kernels/flow_ahead.py). Arguments as `launch` has them."""
        target, *_, delay = _asked(rtc)
        flow_ahead.launch(self._ahead, self._params, x_t, lengths, keys, values, _chunks(keys), first, target, delay)

    def launch(self, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, rtc: Chunking | None,
               first: int = 0) -> None:  # fmt: skip
        """x_t [H, A] in place; lengths [≥ 1] int32; keys, values: the first robot's of [layers, ≥ 1, rows, D], in chunks;
        rtc: tensors on the device, the first robot's are read at every run; Committed just where built with `held`;
        first: what `begin` was told."""
        self._kernel(CTAS, THREADS, [self._params, x_t, lengths, keys, values, _chunks(keys), *_asked(rtc), first])

    def step_ms(self) -> list[float]:
        """Milliseconds of each flow step of the last run, by the GPU's clock; waits for the GPU."""
        return (self._stamps.diff() * 1e-6).tolist()


def _chunks(cache: Tensor) -> int:
    """From a layer's chunks to the next one's."""
    return cache.stride(0) // (64 * 256)


def _asked(rtc: Chunking | None) -> tuple[Tensor | None, ...]:
    """target, weights, most, delay"""
    guidance, committed = (rtc if isinstance(rtc, kind) else None for kind in (Guidance, Committed))
    return (
        rtc and rtc.target,
        guidance and guidance.weights,
        guidance and guidance.most,
        committed and committed.delay,
    )
