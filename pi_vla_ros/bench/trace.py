# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What ran where: a trace for chrome://tracing or Perfetto, and the kernel that each product got.

A trace has three replays of the captured graph, as they run in a control loop, and then one step launched kernel by
kernel, in which ranges name the phases (pi_vla_ros/engine/phases.py) and the products with their sizes. The same ranges
are NVTX ranges, for Nsight Systems.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from pi_vla_ros.engine import Engine
from pi_vla_ros.engine.phases import PHASES

REPLAY = "replay"
LIBRARIES = {"mm": "cuBLAS", "addmm": "cuBLAS", "_addmm_activation": "cuBLASLt", "_scaled_mm": "cuBLASLt"}


@dataclass(frozen=True)
class Ran:
    """Kernels of one kind in one phase: product and its sizes, who made the kernel, its name, how often, µs in all."""

    phase: str
    product: str
    maker: str
    kernel: str
    calls: int
    us: float


def record(engine: Engine, request, path: Path | None = None) -> list[Ran]:
    """Trace a few steps, to `path` if given; what ran in the step that was launched kernel by kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = path or Path(folder) / "trace.json"
        with engine.uncaptured():
            engine.step(request)  # first launches of their kind
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as tracer:
            for _ in range(3):
                with record_function(REPLAY):
                    engine.step(request)
            with engine.uncaptured(), labelled():
                engine.step(request)
        tracer.export_chrome_trace(str(file))
        return ran(json.loads(file.read_text())["traceEvents"])


@contextlib.contextmanager
def labelled() -> Iterator[None]:
    """Our products open ranges with their sizes, as PyTorch's operations do by themselves."""
    from pi_vla_ros.engine.fused import stages

    ours = {
        name: function
        for name, function in vars(stages).items()
        if inspect.isfunction(function) and function.__module__.startswith("pi_vla_ros.kernels.")
    }
    for name, function in ours.items():
        setattr(stages, name, _labelled(function))
    try:
        yield
    finally:
        for name, function in ours.items():
            setattr(stages, name, function)


def _labelled(function):
    def call(*args, **options):
        sizes = " ".join("x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor))
        with record_function(f"{function.__name__} {sizes}"):
            return function(*args, **options)

    return call


def ran(events: list[dict]) -> list[Ran]:
    """From a chrome trace: the kernels that were launched inside a phase, by phase and product."""
    launches, kernels = {}, []
    opened: dict[object, list[tuple[float, str, str]]] = {}  # thread -> (end, phase or product, name)
    for e in sorted((e for e in events if e.get("ph") == "X"), key=lambda e: (e["ts"], -e["dur"])):
        category, thread = e.get("cat"), e.get("tid")
        if category == "kernel":
            kernels.append(e)
            continue
        stack = opened.setdefault(thread, [])
        while stack and stack[-1][0] < e["ts"]:
            stack.pop()
        if category == "user_annotation":
            kind = "phase" if e["name"] in PHASES else "product"
            stack.append((e["ts"] + e["dur"], kind, e["name"]))
        elif category == "cpu_op":
            dims = e.get("args", {}).get("Input Dims", [])
            sizes = " ".join("x".join(map(str, d)) for d in dims if d and not isinstance(d[0], list))
            stack.append((e["ts"] + e["dur"], "operation", f"{e['name'].removeprefix('aten::')} {sizes}".strip()))
        elif category in ("cuda_runtime", "cuda_driver") and "correlation" in e.get("args", {}):
            launches[e["args"]["correlation"]] = list(stack)
    found: dict[tuple, Ran] = {}
    for kernel in kernels:
        stack = launches.get(kernel["args"].get("correlation"), [])
        phases = [name for _, kind, name in stack if kind == "phase"]
        if not phases:
            continue
        ours = [name for _, kind, name in stack if kind == "product"]
        operations = [name for _, kind, name in stack if kind == "operation"]
        product = (ours or operations or [kernel["name"]])[-1 if ours else 0]
        key = phases[-1], product, maker(product, kernel["name"], bool(ours)), kernel["name"]
        before = found.get(key, Ran(*key, 0, 0.0))
        found[key] = replace(before, calls=before.calls + 1, us=before.us + kernel["dur"])
    order = {phase: i for i, phase in enumerate(PHASES)}
    return sorted(found.values(), key=lambda r: (order[r.phase], -r.us))


def maker(product: str, kernel: str, ours: bool) -> str:
    """Who made a kernel: Triton or CUDA (ours), cuBLAS, cuBLASLt, SDPA, or PyTorch."""
    operation = product.partition(" ")[0]
    if "scaled_dot_product" in product or operation in ("_flash_attention_forward", "_cudnn_attention_forward"):
        return "SDPA"
    if not ours:
        return LIBRARIES.get(operation, "PyTorch")
    return "Triton" if kernel.endswith("_kernel") else "CUDA"


def choices(found: list[Ran]) -> str:
    """Which product ran where."""
    lines = ["phase        maker     calls  µs each  product and sizes -> kernel"]
    for r in found:
        lines.append(f"{r.phase:12} {r.maker:8} {r.calls:6} {r.us / r.calls:8.1f}  {r.product} -> {r.kernel[:60]}")
    return "\n".join(lines)
