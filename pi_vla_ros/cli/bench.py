# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""bench: how long a step takes on this GPU, camera frames on the host to actions on the host.

Random weights unless --checkpoint is given. One row a case; --json writes the rows that docs/bench/ keeps.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from pi_vla_ros.model.geometry import PI0, PI05, Geometry

try:
    from pi_vla_ros.engine.fused import autotune
    from pi_vla_ros.engine.fused.runner import FusedRunner
    from pi_vla_ros.engine.fused.tuning_cache import tuning_for
except ModuleNotFoundError:  # Triton comes with PyTorch's CUDA builds only; main says what is missing
    autotune = FusedRunner = tuning_for = None

IDLE = 5.0  # seconds without work before the step that shows what waking up costs
MATRIX = {"views": (1, 2, 3), "prompt_len": (20, 48, 200)}


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if not torch.cuda.is_available() or FusedRunner is None:
        sys.exit("bench: needs an NVIDIA GPU and a CUDA build of PyTorch (Triton comes with it)")
    if args.tune:
        return tune(args)
    device = torch.device("cuda")
    ceilings = measured_ceilings(device)
    cases = [args]
    if args.matrix:
        cases = [
            argparse.Namespace(**{**vars(args), "views": v, "prompt_len": p})
            for v in MATRIX["views"]
            for p in MATRIX["prompt_len"]
            if p <= geometry_of(args).prompt_len
        ]
    rows = [measure(case, device, ceilings) for case in cases]
    print(table(rows))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--model", choices=("pi0", "pi05"), default="pi05")
    parser.add_argument("--checkpoint", type=Path, help="weights to run; random ones if absent")
    parser.add_argument("--views", type=int, default=3, help="cameras")
    parser.add_argument("--prompt-len", type=int, default=48, help="tokens")
    parser.add_argument("--chunk-size", type=int, default=50, help="actions in one answer")
    parser.add_argument("--steps", type=int, default=10, help="flow steps")
    parser.add_argument("--batch", type=int, default=1, help="robots")
    parser.add_argument("--precision", choices=("bf16",), default="bf16")
    parser.add_argument("--iters", type=int, default=1000, help="timed steps")
    parser.add_argument("--no-resident", action="store_true", help="flow loop as separate kernels")
    parser.add_argument("--matrix", action="store_true", help="all of views × prompt lengths")
    parser.add_argument("--tune", action="store_true", help="search tiles for this GPU and print them")
    parser.add_argument("--profile", type=Path, help="write a trace of three steps")
    parser.add_argument("--json", type=Path, help="write the rows")
    args = parser.parse_args(arguments)
    args.command = "bench " + " ".join(sys.argv[1:] if arguments is None else arguments)
    return args


def geometry_of(args: argparse.Namespace) -> Geometry:
    return replace(PI05 if args.model == "pi05" else PI0, chunk=args.chunk_size)


def build(args: argparse.Namespace, device: torch.device) -> FusedRunner:
    if args.checkpoint:
        from pi_vla_ros.checkpoint import load_checkpoint, load_model

        model = load_model(load_checkpoint(args.checkpoint), torch.bfloat16, device=device)
    else:
        model = autotune.blank_model(geometry_of(args), device, torch.bfloat16)
    tuning = replace(tuning_for(device, args.batch), resident=not args.no_resident)
    return FusedRunner(model, cameras=args.views, max_batch=args.batch, steps=args.steps, tune=tuning)


def request(g: Geometry, args: argparse.Namespace) -> SimpleNamespace:
    rng = torch.Generator().manual_seed(0)
    size, b = g.vision.image, args.batch
    return SimpleNamespace(
        pixel_values=torch.randint(256, (b, args.views, size, size, 3), generator=rng, dtype=torch.uint8),
        camera_mask=torch.ones(b, args.views, dtype=torch.bool),
        input_ids=torch.randint(g.vocab, (b, args.prompt_len), generator=rng),
        lang_lens=torch.full((b,), args.prompt_len),
        state=torch.randn(b, g.action_dim, generator=rng) if g.model == "pi0" else None,
        noise=torch.randn(b, g.chunk, g.action_dim, generator=rng),
    )


def measure(args: argparse.Namespace, device: torch.device, ceilings: dict[str, float]) -> dict:
    torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    runner = build(args, device)
    g = runner.geometry
    asked = request(g, args)
    runner.run(asked)  # compiles and captures
    init = time.perf_counter() - begun
    for _ in range(20):
        first = runner.run(asked)
    wall, stages = [], []
    for _ in range(args.iters):
        start = time.perf_counter()
        actions = runner.run(asked)
        wall.append(1e3 * (time.perf_counter() - start))
        stages.append(runner.stage_ms())
    if not torch.equal(first, actions):
        raise RuntimeError("bench: the same inputs gave different actions")
    time.sleep(IDLE)
    start = time.perf_counter()
    runner.run(asked)
    idle = 1e3 * (time.perf_counter() - start)
    if args.profile:
        profile(runner, asked, args.profile)
    row = {
        "model": args.model, "views": args.views, "prompt_len": args.prompt_len, "chunk_size": g.chunk,
        "steps": args.steps, "batch": args.batch, "precision": args.precision,
        "gpu": torch.cuda.get_device_name(device), "date": datetime.date.today().isoformat(), "commit": commit(),
        "command": args.command,
        "stage_ms": {k: round(quantile([s[k] for s in stages], 0.5), 3) for k in stages[0]},
        "wall_ms": spread(wall),
        "graph_ms": spread([sum(v for k, v in s.items() if k != "copies") for s in stages]),
        "after_idle_ms": round(idle, 3), "init_s": round(init, 1),
        "memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2),
        "floor_ms": round(floor_ms(g, args, ceilings), 2), "ceilings": ceilings,
    }  # fmt: skip
    runner.close()
    torch.cuda.empty_cache()
    return row


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def spread(values: list[float]) -> dict[str, float]:
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(quantile(values, q), 3) for name, q in quantiles.items()}


def measured_ceilings(device: torch.device) -> dict[str, float]:
    """What this GPU does at best: bf16 TFLOP/s of a large product, TB/s of a large read."""

    def seconds(work) -> float:
        for _ in range(3):
            work()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(11)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize()
        return min(a.elapsed_time(b) for a, b in itertools.pairwise(marks)) / 1e3

    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    data = torch.zeros(1 << 30, device=device, dtype=torch.float32)
    rates = {"tflops": 2 * 8192**3 / seconds(lambda: a @ b) / 1e12, "tbytes": data.nbytes / seconds(data.sum) / 1e12}
    return {k: round(v, 2) for k, v in rates.items()}


def floor_ms(g: Geometry, args: argparse.Namespace, ceilings: dict[str, float]) -> float:
    """Vision and prefix at the arithmetic ceiling, the expert's weights once a step at the memory ceiling."""

    def gemma(s) -> int:  # weights of a layer
        return s.width * (s.heads + 1) * s.head_dim * 2 + 3 * s.width * s.mlp

    v, seen = g.vision, args.views * g.vision.tokens
    tokens = seen + args.prompt_len
    vision = seen * v.depth * (4 * v.width**2 + 2 * v.width * v.mlp + 2 * v.tokens * v.width)
    attention = 2 * tokens**2 * g.language.heads * g.language.head_dim
    prefix = (g.language.depth - 1) * (tokens * gemma(g.language) + attention)
    arithmetic = 2 * args.batch * (vision + prefix) / (ceilings["tflops"] * 1e12)
    memory = args.steps * 2 * g.expert.depth * gemma(g.expert) / (ceilings["tbytes"] * 1e12)
    return 1e3 * (arithmetic + memory)


def profile(runner: FusedRunner, asked, path: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            runner.run(asked)
    trace.export_chrome_trace(str(path))


def tune(args: argparse.Namespace) -> int:
    device, g = torch.device("cuda"), geometry_of(args)
    start = replace(tuning_for(device, args.batch), resident=False)
    autotune.compile_candidates(g, start, args.prompt_len, tuple(autotune.CANDIDATES), torch.get_num_threads())
    bench = autotune.Bench(autotune.blank_model(g, device, torch.bfloat16), start, args.prompt_len, args.views)
    with torch.no_grad():
        print(f'"{torch.cuda.get_device_name(device)}": {autotune.tune(bench, start)}')
    return 0


def commit() -> str:
    here = Path(__file__).parent
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def table(rows: list[dict]) -> str:
    head = "model views prompt chunk batch | vision prefix expert copies | wall p50    p99  p99.9    max  idle "
    head += "| floor  GiB  init s"
    lines = [head]
    for r in rows:
        s, w = r["stage_ms"], r["wall_ms"]
        lines.append(
            f"{r['model']:5} {r['views']:5} {r['prompt_len']:6} {r['chunk_size']:5} {r['batch']:5} | "
            f"{s['vision']:6.2f} {s['prefix']:6.2f} {s['expert']:6.2f} {s['copies']:6.2f} | "
            f"{w['p50']:8.2f} {w['p99']:6.2f} {w['p99.9']:6.2f} {w['max']:6.2f} {r['after_idle_ms']:5.1f} | "
            f"{r['floor_ms']:5.2f} {r['memory_gib']:4.1f} {r['init_s']:7.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
