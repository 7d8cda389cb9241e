# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What real-time chunking costs: the expert's stage of three engines, in turn in one process, one JSON line.

    python test/gpu/time_rtc.py

π0.5 at full size, random weights, chunk 50, ten steps, a prefix of 968 tokens. `asked`: half of the chunk is guided, the
first ten actions are committed.
"""

from __future__ import annotations

import copy
import json

import torch

from pi_vla_ros.engine.fused.autotune import blank_model, medians
from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.kernels.qkv import rope_tables
from pi_vla_ros.model.geometry import PI05
from pi_vla_ros.model.rtc import Committed, Guidance

CUDA, SEEN, STEPS, REPLAYS = torch.device("cuda"), 968, 10, 300


def requests(asked: bool) -> dict:
    target = torch.randn(1, PI05.chunk, PI05.action_dim, device=CUDA)
    weights = (torch.arange(PI05.chunk, device=CUDA) < (25 if asked else 0)).float()[None]
    delay = torch.full((1,), 10 if asked else 0, device=CUDA, dtype=torch.int32)
    return {"off": None, "guided": Guidance(target, weights, torch.full((1,), 10.0, device=CUDA)),
            "trained": Committed(target, delay)}  # fmt: skip


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model, tune = blank_model(PI05, CUDA, torch.bfloat16), tuning_for(CUDA, 1)
    rows = -(-(SEEN + PI05.suffix) // 64) * 64
    rope = rope_tables(rows, PI05.expert.head_dim, CUDA)
    cache = [torch.randn(PI05.expert.depth, 1, rows, 256, device=CUDA).bfloat16() for _ in range(2)]
    noise, lengths = (
        torch.randn(PI05.chunk, PI05.action_dim, device=CUDA),
        torch.tensor([SEEN], device=CUDA, dtype=torch.int32),
    )
    graphs, x = {}, noise.clone()
    for asked in (False, True):
        for rtc, request in requests(asked).items():
            if rtc == "off" and asked:
                continue
            stage = ExpertStage(copy.deepcopy(model), 1, rows, STEPS, torch.bfloat16, tune, True, rope, rtc)

            def launch(stage=stage, request=request):
                x.copy_(noise)
                stage.launch(x, 1, SEEN, lengths, *cache, rope, None, request)

            launch()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch()
            graphs[f"{rtc}, {'asked' if asked else 'nothing asked'}"] = graph, stage, request
    ms = medians([graph for graph, *_ in graphs.values()], REPLAYS)
    print(
        json.dumps(
            {
                "gpu": torch.cuda.get_device_name(),
                "expert_ms": dict(zip(graphs, (round(t, 3) for t in ms), strict=True)),
            }
        )
    )


if __name__ == "__main__":
    main()
