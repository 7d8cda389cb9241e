# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What both examples do: build an engine, time it, compare its actions."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from pi_vla_ros.checkpoint import load_checkpoint, load_model, random_model
from pi_vla_ros.engine import DeviceConfig, Engine, EngineArgs, EngineConfig
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import Geometry, tiny
from pi_vla_ros.model.pi import PiModel

WARM_UPS, TIMED = 3, 30
BATCHES = (1, 4)
TOLERANCE = {torch.bfloat16: (2e-2, 0.9995), torch.float32: (1e-4, 0.999999)}  # relative error, cosine


def run(model: str, args_type: type, geometry: Geometry, request) -> int:
    """request(geometry, cameras, robots) -> a request. Returns the exit code."""
    options = parse(model)
    gpu = torch.cuda.is_available()
    if not gpu and not options.tiny:
        raise SystemExit(f"run_{model}: needs an NVIDIA GPU; --tiny runs a toy model without one")
    dtype = torch.bfloat16 if gpu else torch.float32
    if options.checkpoint:
        weights = {"checkpoint_dir": options.checkpoint}
    else:
        weights = {"random_geometry": tiny(model, chunk=10) if options.tiny else geometry}
    args = args_type(**weights, max_batch_size=max(BATCHES), vision_params_dtype=dtype)
    device = DeviceConfig("cuda" if gpu else "cpu", params_dtype=dtype, cpu_threads=1)  # enough for a toy

    begun = time.perf_counter()
    with Engine(EngineArgs(model, args, EngineConfig(device))) as engine:
        print(f"set-up {time.perf_counter() - begun:.1f} s")
        asked = request(engine.geometry, engine.cameras, max(BATCHES))
        for batch in BATCHES:
            print(f"batch {batch}: {summary(latencies(engine, first(asked, batch)))}")
        together = engine.step(asked)
        alone = torch.cat([engine.step(one(asked, i)) for i in range(max(BATCHES))])
        steps = engine.steps
    exact = fp32_model(args, dtype, device.device)
    good = [
        equal(f"batch {max(BATCHES)} and batch 1", together, alone, dtype),
        equal("batch 1 and the fp32 reference", alone, reference(exact, asked, steps), dtype),
    ]
    print("PASS" if all(good) else "FAIL")
    return 0 if all(good) else 1


def fp32_model(args, dtype: torch.dtype, device: torch.device) -> PiModel:
    """The PyTorch model in fp32, with the very weights that the engine has: those of its precision."""
    if args.checkpoint_dir:
        return load_model(load_checkpoint(args.checkpoint_dir), dtype, device=device).float()
    return random_model(args.random_geometry, dtype, device=device, seed=args.seed).float()


@torch.inference_mode()
def reference(model: PiModel, request, steps: int) -> Tensor:
    """Actions (B, chunk, action_dim) by the plain PyTorch model, nothing captured, nothing fused."""
    there = model.projector.weight.device
    images, ids, lengths, noise = (
        t.to(there) for t in (request.pixel_values, request.input_ids, request.lang_lens, request.noise)
    )
    cameras = torch.ones(images.shape[:2], dtype=torch.bool, device=there)
    state = None if request.state is None else request.state.to(there)
    prefix = model.prefix(*model.embed_prefix(images, cameras, ids, lengths))
    return sample(model, prefix, noise, state, steps).cpu()


def parse(model: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"run_{model}.py")
    parser.add_argument("--checkpoint", type=Path, help="weights to run; seeded random ones if absent")
    parser.add_argument("--tiny", action="store_true", help="a toy model; runs without a GPU")
    return parser.parse_args()


def first(request, robots: int):
    """The request for its first robots."""
    return _each(request, lambda t: t[:robots])


def one(request, robot: int):
    """The request for one of its robots."""
    return _each(request, lambda t: t[robot : robot + 1])


def _each(request, f):
    tensors = {k: v for k, v in vars(request).items() if isinstance(v, Tensor)}
    return dataclasses.replace(request, **{k: f(v) for k, v in tensors.items()})


def latencies(engine: Engine, request) -> list[float]:
    """Milliseconds of each timed step, host to host."""
    spent = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        engine.step(request)
        spent.append(1e3 * (time.perf_counter() - start))
    return spent[WARM_UPS:]


def summary(ms: list[float]) -> str:
    return (
        f"mean {statistics.mean(ms):.2f} ms, median {statistics.median(ms):.2f}, std {statistics.stdev(ms):.2f}, "
        f"min {min(ms):.2f}, max {max(ms):.2f} ({len(ms)} steps)"
    )


def equal(what: str, ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether actions agree as far as `dtype` allows; says by how much."""
    most, least = TOLERANCE[dtype]
    error = float((ours - theirs).norm() / theirs.norm())
    cosine = float(torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0))
    good = error <= most and cosine >= least  # NaN is not
    print(
        f"{what}: relative error {error:.1e} (at most {most:.0e}), cosine {cosine:.6f} (at least {least}): "
        f"{'equal' if good else 'DIFFERENT'}"
    )
    return good
