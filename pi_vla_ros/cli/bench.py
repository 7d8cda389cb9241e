# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""bench: how long a step takes on this GPU, camera frames on the host to actions on the host.

Random weights unless --checkpoint is given. Prints one row a case, the floor that this GPU's measured ceilings set, and
which kernel each product got; --json writes the rows that docs/bench/ keeps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from pi_vla_ros import user_cache
from pi_vla_ros.bench.case import DTYPES, Case
from pi_vla_ros.bench.ceilings import Ceilings
from pi_vla_ros.bench.measure import Subject, measure, provenance
from pi_vla_ros.bench.report import grid, plot, table

VIEWS, PROMPTS = (1, 2, 3, 4), (20, 48, 200)  # of --matrix


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    command = "bench " + " ".join(sys.argv[1:] if arguments is None else arguments)
    gpu = torch.cuda.is_available()
    if not gpu and not args.tiny:
        sys.exit("bench: needs an NVIDIA GPU and a CUDA build of PyTorch; --tiny tries the command on the CPU")
    device = torch.device("cuda" if gpu else "cpu")
    case = Case(**{f.name: getattr(args, f.name) for f in fields(Case)})
    if not gpu:
        case = replace(case, precision="fp32", vision_precision=None)
    try:
        if args.init:
            print(f"{set_up(case):.2f}")
            return 0
        return tune(case, device) if args.tune else run(case, args, device, command)
    except ValueError as error:  # sizes that the model does not take, a checkpoint that does not fit
        sys.exit(f"bench: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--model", choices=("pi0", "pi05"), default="pi05")
    parser.add_argument("--checkpoint", type=Path, help="weights to run; random ones if absent")
    parser.add_argument("--views", type=int, default=3, help="cameras")
    parser.add_argument("--frame", type=size, default=(224, 224), metavar="HxW", help="their size, 224x224; as bytes")
    parser.add_argument("--prompt-len", type=int, default=48, help="tokens")
    parser.add_argument("--chunk-size", type=int, default=50, help="actions in one answer (of random weights)")
    parser.add_argument("--steps", type=int, default=10, help="flow steps")
    parser.add_argument("--batch", type=int, default=1, help="robots")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument(
        "--vision-precision", choices=("bf16", "fp32"), help="of the vision tower (π0's reference: fp32); default: same"
    )
    parser.add_argument("--iters", type=int, default=1000, help="timed steps")
    parser.add_argument("--rate", type=float, metavar="HZ", help="steps a second, as on a robot; default: back to back")
    parser.add_argument("--idle", type=float, help="s without work before one more step is timed; 5, with --tiny 0")
    parser.add_argument("--matrix", action="store_true", help=f"all of {VIEWS} views × prompts of {PROMPTS} tokens")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the rows")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a trace for chrome://tracing or Perfetto")
    parser.add_argument(
        "--cold", action="store_true", help="also time set-up in new processes: no kernel caches, warm ones"
    )
    parser.add_argument(
        "--tune", action="store_true", help="find tiles for this GPU, with these sizes; keep them on disk"
    )
    parser.add_argument("--tiny", action="store_true", help="a toy model; runs without a GPU")
    parser.add_argument("--init", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for name in ("iters", "batch", "steps", "chunk_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1, is {getattr(args, name)}")
    if args.idle is None:
        args.idle = 0.0 if args.tiny else 5.0
    if not 0 <= args.idle < math.inf:
        parser.error(f"--idle: must be 0 or more seconds, is {args.idle}")
    if args.rate is not None and not 0 < args.rate < math.inf:
        parser.error(f"--rate: must be more than 0 steps a second, is {args.rate}")
    return args


def size(text: str) -> tuple[int, int]:
    """ "480x640" -> height and width"""
    height, _, width = text.partition("x")
    if min(int(height), int(width)) < 1:
        raise ValueError
    return int(height), int(width)


def run(case: Case, args: argparse.Namespace, device: torch.device, command: str) -> int:
    ceilings = Ceilings.measure(device, case.precision, case.vision_precision)
    source, rows = provenance(device, command), []
    subject = Subject(replace(case, views=VIEWS[0]) if args.matrix else case, device)
    cases = list(matrix(subject)) if args.matrix else [case]
    for case in cases:
        if case.views != subject.case.views and case.checkpoint is None:
            subject.engine.close()
            subject = Subject(case, device)
        else:
            subject.ask(case)
        rows.append(measure(subject, ceilings, args.iters, args.idle, args.rate) | source)
    if args.cold:
        rows[-1] |= in_new_processes(cases[-1])
    print(
        f"{source['gpu']}: {ceilings.tflops} TFLOP/s, {ceilings.copy_tbytes} TB/s copied, {ceilings.read_tbytes} read"
    )
    print(table(rows))
    if args.rate:
        print(f"{args.rate:g} steps a second")
    if case.precision == "bf16" and not subject.engine.fused:
        print("bench: these are the PyTorch model's graphs, not our kernels; the warning above says why")
    if args.matrix:
        print("\nmedian wall time, ms\n" + grid(rows))
    if args.cold:
        print(f"\nset-up, s: {rows[-1]['init_cold_s']} without kernel cache, {rows[-1]['init_warm_s']} with one")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)
    if subject.engine.fused:  # last: a profiler that was once there slows what comes after it
        from pi_vla_ros.bench.trace import choices, record

        print("\n" + choices(record(subject.engine, subject.request, args.profile)))
    elif args.profile:
        print(f"bench: no trace: only {device.type} steps through our kernels have one", file=sys.stderr)
    subject.engine.close()
    return 0


def matrix(subject: Subject) -> Iterator[Case]:
    """All sizes that the model takes; a random one can have any number of cameras."""
    case, engine = subject.case, subject.engine
    for views in VIEWS:
        for prompt in PROMPTS:
            if prompt <= engine.geometry.prompt_len and (case.checkpoint is None or views <= engine.cameras):
                yield replace(case, views=views, prompt_len=prompt)


def tune(case: Case, device: torch.device) -> int:
    if device.type != "cuda":
        sys.exit("bench: --tune needs an NVIDIA GPU")
    from pi_vla_ros.engine.fused.autotune import Search
    from pi_vla_ros.engine.fused.autotune import tune as search
    from pi_vla_ros.engine.fused.tuning_cache import Key, tuning_for

    start = tuning_for(device, case.batch)
    sizes = Search(case.geometry, start, case.prompt_len, case.views, case.batch)
    found = search(sizes, device, len(os.sched_getaffinity(0)))
    key = Key.of(device)
    print(f'("{key.gpu}", {case.batch}): {found}')
    print(f"kept in {key.store(found, case.batch)}: engines of {case.batch} or more robots use it from now on")
    return 0


def set_up(case: Case) -> float:
    """Seconds until the first actions, the packages' import not counted."""
    subject = Subject(case, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    subject.engine.close()
    return subject.init_s


def in_new_processes(case: Case) -> dict[str, float]:
    """Set-up times of two processes that begin with the same, empty, kernel caches and with this machine's tiles."""
    values = {f.name.replace("_", "-"): getattr(case, f.name) for f in fields(Case)}
    values["frame"] = "x".join(map(str, case.frame))
    given = [f"--{name}={value}" for name, value in values.items() if name != "tiny" and value is not None]
    given += ["--tiny"] * case.tiny
    with tempfile.TemporaryDirectory() as cache:
        caches = {"TRITON_CACHE_DIR": cache, "CUDA_CACHE_PATH": cache, "XDG_CACHE_HOME": cache}
        if (tiles := user_cache.folder("tuning")).is_dir():
            shutil.copytree(tiles, Path(cache, "pi_vla_ros", "tuning"))

        def seconds() -> float:
            again = [sys.executable, "-m", "pi_vla_ros.cli.bench", "--init", *given]
            told = subprocess.run(again, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True)
            return round(float(told.stdout.splitlines()[-1]), 2)

        return {"init_cold_s": seconds(), "init_warm_s": seconds()}


if __name__ == "__main__":
    sys.exit(main())
