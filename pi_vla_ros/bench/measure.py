# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One case measured: camera frames on the host to actions on the host."""

from __future__ import annotations

import datetime
import gc
import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.ceilings import Ceilings, floor_ms
from pi_vla_ros.engine import Engine

WARM_UPS = 20
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class NotRepeatable(RuntimeError):
    """The same inputs gave different actions."""


class Subject:
    """An engine of a case, ready to step, and what it took to get there."""

    def __init__(self, case: Case, device: torch.device):
        self._device = device
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        begun = time.perf_counter()
        self.engine: Engine = case.engine(device)
        self.ask(case)
        self.init_s = time.perf_counter() - begun

    def ask(self, case: Case) -> None:
        """The inputs of a case that differs in these only."""
        self.case, self.request = case, case.request(self.engine)
        self.engine.prepare(case.views)
        self.first = self.engine.step(self.request)

    def step(self) -> tuple[float, dict[str, float]]:
        """Milliseconds of a step, and of its stages. Raises NotRepeatable."""
        start = time.perf_counter()
        actions = self.engine.step(self.request)
        wall = 1e3 * (time.perf_counter() - start)
        if not torch.equal(actions, self.first):
            raise NotRepeatable("bench: the same inputs gave different actions; these times mean nothing")
        return wall, dict(self.engine.stage_ms)

    @property
    def memory_gib(self) -> float:
        """Most memory that was ever allocated, loading included."""
        return torch.cuda.max_memory_allocated(self._device) / 2**30 if self._device.type == "cuda" else 0.0


def paced(steps: int, rate: float | None) -> Iterator[None]:
    """Times to begin a step: `rate` a second, from where the first begins; without a rate at once. Who is late by whole
    periods goes on with the next one, as a timer does."""
    begin = time.perf_counter()
    for _ in range(steps):
        yield
        if rate:
            periods = math.ceil((time.perf_counter() - begin) * rate)
            time.sleep(max(0.0, begin + periods / rate - time.perf_counter()))


def measure(subject: Subject, ceilings: Ceilings, iters: int, idle_s: float, rate: float | None = None) -> dict:
    """A row: see docs/bench/README.md. The first steps do not count; at the end, one after `idle_s` without work.

    rate: steps a second, evenly; None: one after the other."""
    for _ in paced(WARM_UPS, rate):
        subject.step()
    walls, stages = zip(*(subject.step() for _ in paced(iters, rate)), strict=True)
    time.sleep(idle_s)
    after_idle, _ = subject.step()
    case, g = subject.case, subject.engine.geometry
    graph = [sum(v for k, v in s.items() if k != "copies") for s in stages]
    floor = floor_ms(g, case, ceilings)
    return {
        "model": g.model, "views": case.views, "frame": list(case.frame), "prompt_len": case.prompt_len,
        "chunk_size": g.chunk, "steps": subject.engine.steps, "batch": case.batch, "precision": case.precision,
        "vision_precision": case.vision_precision or case.precision, "fused": subject.engine.fused,
        "stage_ms": {k: round(quantile([s[k] for s in stages], 0.5), 3) for k in stages[0]},
        "wall_ms": spread(walls), "graph_ms": spread(graph), "after_idle_ms": round(after_idle, 3), "idle_s": idle_s,
        "init_s": round(subject.init_s, 1), "memory_gib": round(subject.memory_gib, 2),
        "floor_ms": round(floor, 2), "floor_fraction": round(floor / quantile(walls, 0.5), 3),
        "ceilings": asdict(ceilings), "iters": iters, "rate_hz": rate,
    }  # fmt: skip


def provenance(device: torch.device, command: str) -> dict:
    """Where rows come from."""
    here = Path(__file__).parent
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none (CPU)",
        "date": datetime.date.today().isoformat(),
        "commit": asked.stdout.strip() or "unknown",
        "command": command,
    }


def quantile(values, q: float) -> float:
    """The smallest value that at least the fraction `q` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def spread(values) -> dict[str, float]:
    return {name: round(quantile(values, q), 3) for name, q in QUANTILES.items()}
