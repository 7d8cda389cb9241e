# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Compiles every Triton kernel that both models launch at full size, for a GPU that need not be there.

    python test/compile_kernels.py 89          # sm_89 -> one JSON line a kernel: name, shared memory (bytes), warps

The stages run on tensors without memory, launches stop at the compiler.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from pi_vla_ros.engine.fused import autotune
from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.engine.fused.tuning import SHIPPED, Tuning, default_for
from pi_vla_ros.kernels import fetch
from pi_vla_ros.kernels.embed import patches
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.kernels.resize import FIELDS
from pi_vla_ros.kernels.vision_linear import row_moments
from pi_vla_ros.model.geometry import PI0, PI05, Geometry
from pi_vla_ros.model.rtc import Committed, Guidance

SHIPPED_FOR = {"NVIDIA H200": 90}


class NoGpu:
    """As much of a driver as the compiler asks for."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def tunings(capability: int) -> Iterator[tuple[Tuning, int]]:
    """Tiles and the number of robots they are for."""
    yield default_for(capability), 1
    for (gpu, robots), tuning in SHIPPED.items():
        if SHIPPED_FOR[gpu] == capability:
            yield tuning, robots


def compile_all(capability: int) -> None:
    driver.set_active(NoGpu(capability))
    autotune.chained = lambda device: capability >= 90
    told, launch = set(), triton.runtime.jit.JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
        if compiled.hash not in told:
            told.add(compiled.hash)
            meta = compiled.metadata
            print(json.dumps({"name": kernel.__name__, "shared": meta.shared, "warps": meta.num_warps}), flush=True)

    triton.runtime.jit.JITFunction.run = compile_only
    for tuning, robots in tunings(capability):
        for geometry in (PI05, PI0):
            model = autotune.blank_model(autotune.shallow(geometry), torch.device("meta"), torch.bfloat16)
            bench = autotune.Bench(model, tuning, geometry.prompt_len, robots=robots)
            for stage in autotune.STAGES:
                bench.launch(stage)
            chunking(geometry, tuning, robots, bench.prefix.rope)
    frames_and_noise()
    x, moments = torch.empty(256, 1152, device="meta", dtype=torch.bfloat16), torch.empty(18, 256, 2, device="meta")
    row_moments(x, moments, pdl=capability >= 90)  # of a stage that is in CUDA otherwise


def chunking(geometry: Geometry, tuning: Tuning, robots: int, rope) -> None:
    """The flow loop with real-time chunking in it."""
    shallow, rows = autotune.shallow(geometry), geometry.chunk
    for rtc in ("guided", "trained") if geometry.model == "pi05" else ("guided",):
        with torch.device("meta"), torch.no_grad():
            model = autotune.blank_model(shallow, torch.device("meta"), torch.bfloat16)
            chained = autotune.chained(torch.device("meta"))
            expert = ExpertStage(model, robots, len(rope[0]), 1, torch.bfloat16, tuning, chained, rope, rtc)
            target = torch.empty(robots, rows, geometry.action_dim)
            asked = {
                "guided": Guidance(target, torch.empty(robots, rows), torch.empty(robots)),
                "trained": Committed(target, torch.empty(robots, dtype=torch.int32)),
            }
            cache = torch.empty(2, robots, len(rope[0]), geometry.expert.head_dim, dtype=torch.bfloat16)
            lengths = torch.empty(robots, dtype=torch.int32)
            x_t, state = torch.empty(robots * rows, geometry.action_dim), torch.empty(robots, geometry.action_dim)
            longest = len(rope[0]) - geometry.suffix
            expert.launch(x_t, robots, longest, lengths, cache, cache, rope, state, asked[rtc])


def frames_and_noise() -> None:
    device = torch.device("meta")
    for mode in ("pil", "lerobot"):
        frames = Frames(224, mode, (720, 1280), 3, device)
        records = torch.empty(3, FIELDS, dtype=torch.int32, device=device)
        block = torch.empty(frames.nbytes, dtype=torch.uint8, device=device)
        frames.launch(records, block, 3, False, pdl=autotune.chained(device))
    sources = torch.empty(3, fetch.FIELDS, dtype=torch.int64, device=device)
    words = torch.empty(frames.nbytes // fetch.WORD, dtype=torch.int32, device=device)
    fetch.fetch(sources, words, pdl=autotune.chained(device))
    bytes_ = torch.empty(3, 224, 224, 3, dtype=torch.uint8, device=device)
    patches(bytes_, torch.empty(768, 592, device=device), 14, pdl=autotune.chained(device))
    keys = torch.empty(1, 4, dtype=torch.int64, device=device)
    draw(torch.empty(1, 50, 32, device=device), keys, torch.empty(1, device=device), pdl=autotune.chained(device))


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
