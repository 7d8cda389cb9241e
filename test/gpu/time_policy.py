# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What real-time chunking costs a step, and Policy.infer from camera frames of several sizes while the state, and with it
π0.5's prompt, changes from step to step. Full size, random weights.

python test/gpu/time_policy.py [out.json]
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from pi_vla_ros import policy as policy_module
from pi_vla_ros.checkpoint.random_checkpoint import random_checkpoint
from pi_vla_ros.engine import engine as engine_module
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.model.geometry import PI05
from pi_vla_ros.model.rtc import Committed, Guidance
from pi_vla_ros.policy import Policy, PolicyOptions
from pi_vla_ros.processing.train_tokenizer import train_tokenizer
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import Observation

CUDA, WARM_UPS, TIMES = torch.device("cuda"), 20, 300
STATES = 7  # one after the other


def timed(call) -> dict:
    spent = []
    for _ in range(WARM_UPS + TIMES):
        begin = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - begin))
    return {f"p{q:g}_ms": round(float(np.percentile(spent[WARM_UPS:], q)), 3) for q in (50, 99, 100)}


def ordinary(height: int, width: int) -> np.ndarray:
    return np.empty((height, width, 3), np.uint8)


def infer(stitcher: str) -> list[dict]:
    """A policy without files: the weights are made on the GPU."""
    robot = load_robot("sim")
    robot = replace(robot, motion=replace(robot.motion, stitcher=stitcher))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(Path(folder), 2000)
        described = random_checkpoint(robot, PI05, 0, tokenizer)
        policy_module.load_checkpoint = lambda path: described
        engine_module.load_checkpoint = lambda path, settings: described
        engine_module.Engine._build = lambda self, wanted, device: blank_model(self.geometry, CUDA, torch.bfloat16)
        begin = time.perf_counter()
        policy = Policy(folder, robot, PolicyOptions())
    rows, set_up = [], time.perf_counter() - begin
    sizes = (224, 224), (480, 640), (720, 1280), (1080, 1920)
    rooms = (policy.empty_frame, ordinary) if stitcher == "blend" else (policy.empty_frame,)
    for (height, width), empty in product(sizes, rooms):
        rng, images = np.random.default_rng(0), {}
        for slot in robot.cameras:
            images[slot] = empty(height, width)
            images[slot][:] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        home = robot.measured(robot.home)
        states = [home + 0.1 * rng.standard_normal(len(home)) for _ in range(STATES)]
        seen = cycle(Observation(images, state, "pick up the red block", 0.0) for state in states)
        previous = policy.infer(next(seen))
        row = timed(lambda seen=seen, previous=previous: policy.infer(next(seen), previous, 0.1))
        stages = {k: round(v, 3) for k, v in policy.infer(next(seen), previous, 0.1).stage_ms.items()}
        read = empty is not ordinary  # by the GPU, where the frames are
        rows.append({"stitcher": stitcher, "frame": [height, width], "read": read, **row, "last_stage_ms": stages})
    policy.close()
    return [row | {"set_up_s": round(set_up, 1)} for row in rows]


@torch.inference_mode()
def steps(rtc: str, asked: bool) -> dict:
    g, rng = PI05, torch.Generator().manual_seed(0)
    runner = FusedRunner(blank_model(g, CUDA, torch.bfloat16), cameras=3, max_batch=1, steps=10, rtc=rtc)
    target, weights = torch.randn(1, g.chunk, g.action_dim, generator=rng), torch.rand(1, g.chunk, generator=rng)
    chunking = {
        "guided": Guidance(target, weights, torch.tensor([10.0])),
        "trained": Committed(target, torch.tensor([6])),
    }
    request = SimpleNamespace(
        pixel_values=torch.rand(1, 3, 3, 224, 224, generator=rng) * 2 - 1,
        camera_mask=torch.ones(1, 3, dtype=torch.bool),
        input_ids=torch.randint(g.vocab, (1, 200), generator=rng),
        lang_lens=torch.tensor([200]),
        state=None,
        noise=torch.randn(1, g.chunk, g.action_dim, generator=rng),
        rtc=chunking[rtc] if asked else None,
    )
    row = timed(lambda: runner.run(request))
    expert = sorted(runner.run(request) is not None and runner.stage_ms()["expert"] for _ in range(50))[25]
    runner.close()
    return {"rtc": rtc, "asked": asked, **row, "expert_ms": round(expert, 3)}


if __name__ == "__main__":
    cases = ("off", False), ("guided", False), ("guided", True), ("trained", False), ("trained", True)
    rows = [steps(*case) for case in cases]
    for stitcher in ("blend", "rtc"):
        rows += infer(stitcher)
    for row in rows:
        print(json.dumps(row))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")
