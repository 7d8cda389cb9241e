# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the host is at during a step, before, between and after its graphs: frames of several sizes, in memory that the GPU
reads and in ordinary memory, back to back and as often as a robot asks.

    python test/gpu/time_host.py [out.json]

Full size, random weights, three cameras, prompt 200; new_prompts: each step has tokens that no step had before, whose
rows of the embedding are in no cache. µs, median and 99th percentile; rate: steps a second, null: one after the other.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.measure import Subject, paced
from pi_vla_ros.engine.fused.arena import Arena, Piece
from pi_vla_ros.engine.fused.captured import Captured
from pi_vla_ros.engine.fused.runner import FusedRunner

CUDA = torch.device("cuda")
FRAMES = (224, 224), (480, 640), (1080, 1920)
RATES = {None: 200, 30.0: 60}  # and how many steps


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
        watch(Captured, "__call__", "launch of vision", "events, streams", "launch of the answer", "download"),
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


def step(subject: Subject, rate: float | None, new_prompts: bool) -> dict:
    for _ in paced(20, rate):
        subject.step()
    asked = [subject.request] * RATES[rate]
    if new_prompts:
        ids = torch.randint(subject.engine.geometry.vocab, (len(asked), *subject.request.input_ids.shape))
        asked = [replace(subject.request, input_ids=some) for some in ids]
    walls, stages = zip(*(subject.step() for _ in paced(RATES[rate], rate)), strict=True)
    seen = [stamped(subject.engine, request) for request, _ in zip(asked, paced(len(asked), rate), strict=True)]
    return {
        "frame": list(subject.case.frame),
        "rate": rate,
        "new_prompts": new_prompts,
        "wall_us": spread([1e3 * wall for wall in walls]),
        "stages_us": {k: spread([1e3 * s[k] for s in stages]) for k in stages[0]},
        "stamped_us": {name: spread([row[name] for row in seen]) for name in seen[0]},  # the stamps take time, too
    }


def main() -> None:
    rows = []
    for frame in FRAMES:
        subject = Subject(Case(prompt_len=200, frame=frame), CUDA)
        read = subject.request
        copied = replace(read, frames=[[image.copy() for image in read.frames[0]]])
        for request, rate in product((read, copied), RATES):
            subject.request = request
            rows.append({"read_by_the_gpu": request is read, **step(subject, rate, False)})
            print(json.dumps(rows[-1]), flush=True)
        if frame == FRAMES[0]:
            subject.request = read
            rows.append({"read_by_the_gpu": True, **step(subject, None, True)})
            print(json.dumps(rows[-1]), flush=True)
        subject.engine.close()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
