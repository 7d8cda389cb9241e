# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where the energy of a step goes: joules, watts and clock of its stages, each back to back for seconds.

    python test/gpu/time_energy.py [out.json]

π0.5, three cameras, prompt 48, by the driver's energy counter (NVML); alone on the GPU, or others' work is counted, too.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import torch

from pi_vla_ros.engine.fused.autotune import Bench, blank_model
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.model.geometry import PI05

SECONDS, PROMPT, STEPS, GATES = 2.0, 48, 10, (2048, 32768)  # width; rows of gate and up


class Meter:
    """NVML's counter of the first GPU: mJ since the driver was loaded, in steps of some 20 ms."""

    def __init__(self):
        self._nvml, self._gpu = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self._nvml.nvmlInit_v2()
        self._nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._gpu))

    def millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        if self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu, ctypes.byref(value)):
            sys.exit("time_energy: this GPU or its driver counts no energy")
        return value.value

    def megahertz(self) -> int:
        value = ctypes.c_uint()
        self._nvml.nvmlDeviceGetClockInfo(self._gpu, 1, ctypes.byref(value))
        return value.value

    def next_step(self) -> tuple[int, float]:
        """mJ and s just when the counter moves."""
        before = self.millijoules()
        while (now := self.millijoules()) == before:
            pass
        return now, time.perf_counter()

    def of(self, run, batch: int = 20) -> dict:
        """Milliseconds and joules of one run, watts, median clock; warm."""
        for _ in range(40):
            run()
        self._for(1.0, run, batch)
        before, begin = self.next_step()
        runs, clocks = self._for(SECONDS, run, batch)
        ms = 1e3 * (time.perf_counter() - begin) / runs
        after, end = self.next_step()
        joules = (after - before) / 1e3
        return {
            "ms": round(ms, 4), "joules": round(joules / runs, 4), "watts": round(joules / (end - begin), 1),
            "megahertz": sorted(clocks)[len(clocks) // 2],
        }  # fmt: skip

    def _for(self, seconds: float, run, batch: int) -> tuple[int, list[int]]:
        """The GPU never waits: the next batch is enqueued while one runs."""
        begin, runs, clocks, before = time.perf_counter(), 0, [], None
        while time.perf_counter() - begin < seconds:
            for _ in range(batch):
                run()
            runs += batch
            clocks.append(self.megahertz())
            if before is not None:
                before.synchronize()
            before = torch.cuda.Event()
            before.record()
        torch.cuda.synchronize()
        return runs, clocks


def cases(device: torch.device):
    """Name and what to run. The prefix has no case of its own: without a vision tower before it its input would be what
    the last one left."""
    yield "nothing", lambda: time.sleep(1e-3)
    bench = Bench(blank_model(PI05, device, torch.bfloat16), tuning_for(device, 1), PROMPT, 3, 1, STEPS)
    vision, prefix, expert = (bench.capture(stage).replay for stage in ("vision", "prefix", "expert"))
    yield "vision", vision
    yield "vision and prefix", lambda: (vision(), prefix())
    yield "expert", expert
    yield "all three", lambda: (vision(), prefix(), expert())
    k, n = GATES
    a, w = (torch.randn(rows, k, device=device, dtype=torch.bfloat16) for rows in (3 * 256 + PROMPT, n))
    product = torch.empty(len(a), n, device=device, dtype=torch.bfloat16)
    yield "gate and up, library, random numbers", lambda: torch.mm(a, w.T, out=product)
    zeros = torch.zeros_like(a)
    yield "gate and up, library, activations 0", lambda: torch.mm(zeros, w.T, out=product)
    memory = torch.randint(1 << 62, (1 << 28,), device=device)
    yield "2 GiB read", memory.max


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    meter, found = Meter(), {"gpu": torch.cuda.get_device_name()}
    for name, run in cases(torch.device("cuda")):
        found[name] = meter.of(run)
        print(f"{name:40}", found[name], flush=True)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
