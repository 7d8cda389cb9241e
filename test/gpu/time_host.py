# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a step costs on the host: before, between and after its graphs, and how fast frames get into pinned memory.

    python test/gpu/time_host.py [out.json]

Full size, random weights, three cameras, prompt 200. Also runs where a step is one graph.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.measure import Subject

CUDA, TIMES = torch.device("cuda"), 500
FRAMES = ((224, 224), (480, 640), (720, 1280))
THREADS = (1, 2, 4, 8)
HELPER = ThreadPoolExecutor(1)


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


def median(values) -> float:
    return round(float(np.median(values)), 1)


def step(subject: Subject) -> dict:
    for _ in range(50):
        subject.step()
    seen = [stamped(subject.engine, subject.request) for _ in range(TIMES)]
    stages = [subject.step()[1] for _ in range(100)]
    return {
        "frame": list(subject.case.frame),
        "host_us": [(name, median([row[i][1] for row in seen])) for i, (name, _) in enumerate(seen[0])],
        "wall_us": median([sum(us for _, us in row) for row in seen]),
        "stages_us": {k: median([1e3 * s[k] for s in stages]) for k in stages[0]},
    }


def helped(to: np.ndarray, of: np.ndarray) -> None:
    """The last frame by another thread, which has to wake up first."""
    there = HELPER.submit(np.copyto, to[2], of[2])
    np.copyto(to[:2], of[:2])
    there.result()


def copies(subject: Subject) -> list[dict]:
    """µs for three frames into pinned memory, each copy after a step, as it is in a control loop; µs on to the GPU."""
    rows, before = [], torch.get_num_threads()
    for height, width in FRAMES:
        frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        pinned = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
        there, source = torch.empty_like(pinned, device=CUDA), torch.from_numpy(frames)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        target = pinned.numpy()
        ways = {
            "numpy": lambda to=target, of=frames: np.copyto(to, of),
            "numpy and a helper": lambda to=target, of=frames: helped(to, of),
        }
        for n in THREADS:
            ways[f"torch, {n} threads"] = lambda to=pinned, of=source, n=n: (torch.set_num_threads(n), to.copy_(of))
        row = {"frame": [height, width]}
        for name, copy in ways.items():
            spent, up = [], []
            for _ in range(60):
                subject.engine.step(subject.request)
                start = time.perf_counter()
                copy()
                spent.append(1e6 * (time.perf_counter() - start))
                begin.record()
                there.copy_(pinned, non_blocking=True)
                end.record()
                end.synchronize()
                up.append(1e3 * begin.elapsed_time(end))
            row[name] = {"p50": median(spent), "p95": round(float(np.percentile(spent, 95)), 1), "upload": median(up)}
        rows.append(row)
    torch.set_num_threads(before)
    return rows


def main() -> None:
    rows, case = [], Case(prompt_len=200)
    for frame in FRAMES:
        subject = Subject(replace(case, frame=frame), CUDA)
        rows.append(step(subject))
        print(json.dumps(rows[-1]), flush=True)
        if frame == FRAMES[0]:
            into_pinned = copies(subject)
        subject.engine.close()
    for row in into_pinned:
        print(json.dumps(row))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"steps": rows, "copies": into_pinned}, indent=1) + "\n")


if __name__ == "__main__":
    main()
