# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Engine.step as a robot calls it, at full size, with prompts of changing length: set-up time, median, p99, max."""

import json
import sys
import time

import numpy as np
import torch

from pi_vla_ros.engine import (
    DeviceConfig,
    Engine,
    EngineArgs,
    EngineConfig,
    PI0Args,
    PI0Request,
    PI05Args,
    PI05Request,
    RuntimeConfig,
)
from pi_vla_ros.model.geometry import PI0, PI05


def measure(model: str, fused: bool, iterations: int) -> dict:
    geometry = PI05 if model == "pi05" else PI0
    args = (PI05Args if model == "pi05" else PI0Args)(random_geometry=geometry, vision_params_dtype=None)
    config = EngineConfig(DeviceConfig("cuda", params_dtype=torch.bfloat16), RuntimeConfig(fused=fused))
    begin = time.perf_counter()
    engine = Engine(EngineArgs(model, args, config))
    ready = time.perf_counter() - begin
    pixels, ids = torch.rand(1, 3, 3, 224, 224) * 2 - 1, torch.randint(5, 1000, (1, geometry.prompt_len))
    extra = {"state": torch.randn(1, 32)} if model == "pi0" else {}
    kind = PI0Request if model == "pi0" else PI05Request
    times, lengths = [], np.random.default_rng(0).integers(10, geometry.prompt_len + 1, iterations)
    for length in lengths:
        request = kind(pixel_values=pixels, input_ids=ids, lang_lens=torch.tensor([int(length)]), **extra)
        begin = time.perf_counter()
        engine.step(request)
        times.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(times[20:], (50, 99))
    stages = engine.stage_ms
    engine.close()
    return {
        "model": model, "fused": fused, "gpu": torch.cuda.get_device_name(), "set_up_s": round(ready, 2),
        "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(max(times[20:]), 3),
        "first_ms": round(times[0], 3), "last_stage_ms": {k: round(v, 3) for k, v in stages.items()},
    }  # fmt: skip


if __name__ == "__main__":
    rows = [measure(model, fused, 300) for model in ("pi05", "pi0") for fused in (True, False)]
    print(json.dumps(rows, indent=1))
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as out:
            json.dump(rows, out, indent=1)
