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
from pi_vla_ros.engine.fused.tuning import SHIPPED, Tuning, default_for
from pi_vla_ros.model.geometry import PI0, PI05

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


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
