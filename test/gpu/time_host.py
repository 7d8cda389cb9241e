# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the host is at during a step, before, between and after its graphs, for frames of several sizes.

    python test/gpu/time_host.py [out.json]

Full size, random weights, three cameras, prompt 200; new_prompts: each step has tokens that no step had before, whose
rows of the embedding are in no cache. µs, median and 99th percentile.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.measure import Subject
from pi_vla_ros.engine.fused.arena import Arena, Piece
from pi_vla_ros.engine.fused.runner import FusedRunner

CUDA, TIMES = torch.device("cuda"), 300
FRAMES = ((224, 224), (480, 640), (720, 1280), (1080, 1920))


def stamped(engine, request) -> dict[str, float]:
    """µs of a step by what the host is at, in order; frames of several pieces have several copies and uploads."""
    spent, now = {}, ["checks of the frames", 0.0]

    def is_at(what: str) -> None:
        before, begin = now
        now[:] = what, time.perf_counter()
        spent[before] = spent.get(before, 0.0) + 1e6 * (now[1] - begin)

    def watch(owner, name: str, *during_and_after: str):
        """What is done in a method, and what after it, call by call."""
        method, names = getattr(owner, name), cycle(during_and_after)

        def watched(*args):
            is_at(next(names))
            answer = method(*args)
            is_at(next(names))
            return answer

        return patch.object(owner, name, watched)

    with (
        watch(FusedRunner, "look", "events, streams", "checks of the rest"),
        watch(Arena, "images", "frames into pinned memory", "finding the graph"),
        watch(Piece, "upload", "uploads of frames", "frames into pinned memory"),
        watch(
            torch.cuda.CUDAGraph, "replay", "launch of vision", "events, streams", "launch of the answer", "download"
        ),
        watch(FusedRunner, "run", "the rest into pinned memory", "end"),
        watch(Arena, "upload", "words, uploads", "wait for the upload"),
        watch(torch.cuda.Event, "synchronize", "wait", "answer"),
    ):
        now[1] = time.perf_counter()
        engine.step(request)
        is_at("")
    return spent


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
        "host_us": {name: spread([row[name] for row in seen]) for name in seen[0]},
        "wall_us": spread([sum(row.values()) for row in seen]),
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
