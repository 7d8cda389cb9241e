# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a step costs on the host: before, between and after its graphs, for frames of several sizes.

    python test/gpu/time_host.py [out.json]

Full size, random weights, three cameras, prompt 200; new_prompts: each step has tokens that no step had before, whose
rows of the embedding are in no cache. µs, median and 99th percentile. Also runs where a step is one graph.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.measure import Subject

CUDA, TIMES = torch.device("cuda"), 300
FRAMES = ((224, 224), (480, 640), (720, 1280), (1080, 1920))


def stamped(engine, request) -> list[tuple[str, float]]:
    """Names and times, µs, of what a step goes through; the last is its end."""
    stamps = [("checks, frames, upload", time.perf_counter())]
    replay, synchronize = torch.cuda.CUDAGraph.replay, torch.cuda.Event.synchronize

    def replayed(graph):
        stamps.append(("launch of a graph", time.perf_counter()))
        replay(graph)
        stamps.append(("after a launch", time.perf_counter()))

    def synchronized(event):
        stamps.append(("wait", time.perf_counter()))
        synchronize(event)
        stamps.append(("answer", time.perf_counter()))

    torch.cuda.CUDAGraph.replay, torch.cuda.Event.synchronize = replayed, synchronized
    try:
        engine.step(request)
    finally:
        torch.cuda.CUDAGraph.replay, torch.cuda.Event.synchronize = replay, synchronize
    stamps.append(("", time.perf_counter()))
    return [(name, 1e6 * (end - begin)) for (name, begin), (_, end) in pairwise(stamps)]


def spread(values) -> list[float]:
    """Median and 99th percentile."""
    return [round(float(q), 1) for q in np.percentile(values, (50, 99))]


def step(subject: Subject, new_prompts: bool) -> dict:
    for _ in range(50):
        subject.step()
    asked = [subject.request] * TIMES
    if new_prompts:
        ids = torch.randint(subject.engine.geometry.vocab, (TIMES, *subject.request.input_ids.shape))
        asked = [replace(subject.request, input_ids=some) for some in ids]
    seen = [stamped(subject.engine, request) for request in asked]
    stages = [subject.step()[1] for _ in range(100)]
    return {
        "frame": list(subject.case.frame),
        "new_prompts": new_prompts,
        "host_us": [(name, *spread([row[i][1] for row in seen])) for i, (name, _) in enumerate(seen[0])],
        "wall_us": spread([sum(us for _, us in row) for row in seen]),
        "stages_us": {k: spread([1e3 * s[k] for s in stages]) for k in stages[0]},
    }


def main() -> None:
    rows, case = [], Case(prompt_len=200)
    for frame in FRAMES:
        subject = Subject(replace(case, frame=frame), CUDA)
        for new_prompts in (False, True) if frame == FRAMES[0] else (True,):
            rows.append(step(subject, new_prompts))
            print(json.dumps(rows[-1]), flush=True)
        subject.engine.close()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
