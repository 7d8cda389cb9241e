# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which tiles the kernels use: the defaults run on every GPU of their capability, SHIPPED has what was found better.

What `bench --tune` finds on a machine is kept on its disk (tuning_cache.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pi_vla_ros.kernels.linear import Tile


@dataclass(frozen=True)
class AttentionTile:
    """bm query rows against bk keys a time; blocks: of keys a program takes (expert); join: rows a joining program."""

    bm: int = 64
    bk: int = 64
    stages: int = 2
    warps: int = 4
    blocks: int = 1
    join: int = 4


@dataclass(frozen=True)
class Tuning:
    """One tile a product that is ours; the vision tower's four and the prefix MLP's go through the library. What writes
    the residual stream also fixes how many partial row sums its reader adds."""

    patches: Tile = Tile(128, 64, 32, 3, 4)
    vision_attention: AttentionTile = AttentionTile(128, 64, 2, 4)
    projector: Tile = Tile(128, 128, 64, 4, 8)
    prefix_qkv: Tile = Tile(128, 128, 64, 4, 8)
    prefix_kv: Tile = Tile(64, 64, 64, 4, 4)
    prefix_attention: AttentionTile = AttentionTile(64, 64, 2, 4)
    prefix_out: Tile = Tile(128, 128, 64, 4, 8)
    expert_qkv: Tile = Tile(64, 32, 128, 4, 4)
    expert_attention: AttentionTile = AttentionTile(64, 64, 1, 4)
    expert_out: Tile = Tile(64, 32, 128, 4, 4, split=4)
    expert_up: Tile = Tile(64, 64, 128, 4, 4)
    expert_down: Tile = Tile(64, 64, 128, 4, 4, split=8)
    expert_mix: Tile = Tile(64, 32, 64, 3, 4, split=4)
    resident: bool = True  # one robot on Hopper: the whole flow loop is one kernel (kernels/flow_loop.cu)
    vision_in_cuda: bool = True  # on Hopper: the vision tower's products and attention (engine/fused/vision_in_cuda.py)
    ahead: bool = False  # the expert's weights are asked into the L2 cache one product ahead


# bytes of shared memory that a program may have, by compute capability (CUDA programming guide, "Compute Capabilities")
SHARED_MEMORY = {
    80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10,
    100: 227 << 10, 103: 227 << 10, 110: 227 << 10, 120: 99 << 10, 121: 99 << 10,
}  # fmt: skip
DEFAULT = Tuning()
SMALL = replace(DEFAULT, prefix_attention=AttentionTile(64, 32, 2, 4))  # fits 99 KiB

# (GPU, robots): found by `bench --tune` with that many robots; an engine takes the next smaller number of robots
SHIPPED: dict[tuple[str, int], Tuning] = {
    ("NVIDIA H200", 1): Tuning(
        vision_attention=AttentionTile(128, 64, 3, 8),
        projector=Tile(64, 128, 64, 4, 4),
        prefix_attention=AttentionTile(64, 64, 3, 4),
        expert_qkv=Tile(64, 32, 128, 5, 4),
        expert_attention=AttentionTile(64, 128, 1, 4),
        expert_out=Tile(64, 32, 256, 4, 4, split=2),
        expert_down=Tile(64, 32, 256, 3, 4, split=4),
    ),
    ("NVIDIA H200", 4): Tuning(
        vision_attention=AttentionTile(64, 64, 3, 4),
        prefix_attention=AttentionTile(128, 64, 2, 8),
        expert_qkv=Tile(64, 64, 64, 6, 4),
        expert_attention=AttentionTile(128, 64, 1, 8, 2),
        expert_out=Tile(64, 64, 128, 4, 4, split=2),
        expert_up=Tile(128, 128, 64, 4, 8),
        expert_down=Tile(64, 64, 128, 4, 4, split=2),
    ),
}


def default_for(capability: int) -> Tuning:
    """Tiles for any GPU of a compute capability (86 for sm_86); one that is not known is taken to be a small one."""
    return DEFAULT if SHARED_MEMORY.get(capability, 0) > SHARED_MEMORY[86] else SMALL
