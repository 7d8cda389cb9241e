# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What ran where: a trace for chrome://tracing or Perfetto, and the kernel that each product got.

A trace has three replays of the captured graph, as they run in a control loop, and then one step launched kernel by
kernel, in which ranges name the phases (pi_vla_ros/engine/phases.py) and the products with their sizes. The same ranges
are NVTX ranges, for Nsight Systems.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

import pi_vla_ros.kernels
from pi_vla_ros.engine import Engine
from pi_vla_ros.engine.phases import PHASES

REPLAY = "replay"
LIBRARIES = {"mm": "cuBLAS", "addmm": "cuBLAS", "_addmm_activation": "cuBLASLt", "_scaled_mm": "cuBLASLt"}


@dataclass(frozen=True)
class Ran:
    """Kernels of one kind in one phase: product and its sizes, who made the kernel, its name, how often, µs in all
    (waiting for the predecessor included)."""

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
        trace = json.loads(file.read_text())
        found = list(launched(trace["traceEvents"]))
        if path:
            trace["traceEvents"] += on_gpu(found) + inside(found, engine.flow_step_ms())
            file.write_text(json.dumps(trace))
        return ran(found)


@contextlib.contextmanager
def labelled() -> Iterator[None]:
    """Our products open ranges with their sizes, as PyTorch's operations do by themselves."""
    from pi_vla_ros.engine.fused import expert_stage, stages

    ours = [
        (module, name, function)
        for module in (stages, expert_stage)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__.startswith("pi_vla_ros.kernels.")
    ]
    for module, name, function in ours:
        setattr(module, name, _labelled(function))
    try:
        yield
    finally:
        for module, name, function in ours:
            setattr(module, name, function)


def _labelled(function):
    def call(*args, **options):
        sizes = " ".join("x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor))
        with record_function(f"{function.__name__} {sizes}"):
            return function(*args, **options)

    return call


Opened = tuple[str, str, float]  # phase, product or operation; its name; when it began


def launched(events: list[dict]) -> Iterator[tuple[dict, list[Opened]]]:
    """From a chrome trace: kernels that were launched inside a phase, and all that was open then, outermost first."""
    launches, kernels = {}, []
    opened: dict[object, list[tuple[float, Opened]]] = {}  # thread -> (end, what)
    for e in sorted((e for e in events if e.get("ph") == "X"), key=lambda e: (e["ts"], -e["dur"])):
        category = e.get("cat")
        if category == "kernel":
            kernels.append(e)
            continue
        stack = opened.setdefault(e.get("tid"), [])
        while stack and stack[-1][0] < e["ts"]:
            stack.pop()
        if category == "user_annotation":
            kind = "phase" if e["name"] in PHASES else "product"
            stack.append((e["ts"] + e["dur"], (kind, e["name"], e["ts"])))
        elif category == "cpu_op":
            dims = e.get("args", {}).get("Input Dims", [])
            sizes = " ".join("x".join(map(str, d)) for d in dims if d and not isinstance(d[0], list))
            name = f"{e['name'].removeprefix('aten::')} {sizes}".strip()
            stack.append((e["ts"] + e["dur"], ("operation", name, e["ts"])))
        elif category in ("cuda_runtime", "cuda_driver") and "correlation" in e.get("args", {}):
            launches[e["args"]["correlation"]] = [what for _, what in stack]
    for kernel in kernels:
        stack = launches.get(kernel["args"].get("correlation"), [])
        if any(kind == "phase" for kind, *_ in stack):
            yield kernel, stack


def on_gpu(found: list[tuple[dict, list[Opened]]]) -> list[dict]:
    """A range on the GPU's side for every phase: from its first kernel's start to its last one's end."""
    spans: dict[tuple[str, float], list[dict]] = {}
    for kernel, stack in found:
        for kind, name, began in stack:
            if kind == "phase":
                spans.setdefault((name, began), []).append(kernel)
    events = []
    for (name, _), kernels in spans.items():
        start, end = min(k["ts"] for k in kernels), max(k["ts"] + k["dur"] for k in kernels)
        place = {"pid": kernels[0]["pid"], "tid": "expert_step" if name == "expert_step" else "phases"}
        events.append({"ph": "X", "cat": "gpu_user_annotation", "name": name, "ts": start, "dur": end - start, **place})
    return events


def inside(found: list[tuple[dict, list[Opened]]], step_ms: list[float]) -> list[dict]:
    """The flow steps of the kernel that runs them all, by its own stamps; the last one ends with it."""
    kernel = next((kernel for kernel, _ in found if kernel["name"] == "flow_loop"), None)
    if kernel is None:
        return []
    place = {"ph": "X", "cat": "gpu_user_annotation", "name": "expert_step", "pid": kernel["pid"], "tid": "expert_step"}
    ends = itertools.accumulate(1e3 * ms for ms in step_ms)
    begin = kernel["ts"] + kernel["dur"] - 1e3 * sum(step_ms)
    return [{**place, "ts": begin + end - 1e3 * ms, "dur": 1e3 * ms} for end, ms in zip(ends, step_ms, strict=True)]


def ran(found: list[tuple[dict, list[Opened]]]) -> list[Ran]:
    """Kernels by phase and product."""
    counted: dict[tuple, Ran] = {}
    for kernel, stack in found:
        named = {kind: [name for k, name, _ in stack if k == kind] for kind in ("phase", "product", "operation")}
        product = (named["product"][-1:] or named["operation"][:1] or [kernel["name"]])[0]
        key = named["phase"][-1], product, maker(product, kernel["name"]), kernel["name"]
        before = counted.get(key, Ran(*key, 0, 0.0))
        counted[key] = replace(before, calls=before.calls + 1, us=before.us + kernel["dur"])
    order = {phase: i for i, phase in enumerate(PHASES)}
    return sorted(counted.values(), key=lambda r: (order[r.phase], -r.us))


def maker(product: str, kernel: str) -> str:
    """Who made a kernel: Triton or CUDA (ours), cuBLAS, cuBLASLt, SDPA, or PyTorch."""
    triton, cuda = our_kernels()
    if kernel in triton:
        return "Triton"
    if kernel in cuda:
        return "CUDA"
    operation = product.partition(" ")[0]
    if "scaled_dot_product" in operation or operation in ("_flash_attention_forward", "_cudnn_attention_forward"):
        return "SDPA"
    return LIBRARIES.get(operation, "PyTorch")


@functools.cache
def our_kernels() -> tuple[frozenset[str], frozenset[str]]:
    """Names of those in Triton and of those in CUDA."""
    folder = Path(pi_vla_ros.kernels.__path__[0])
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    return frozenset(re.findall(r"def (\w+_kernel)\(", sources)), frozenset(p.stem for p in folder.glob("*.cu"))


def choices(found: list[Ran]) -> str:
    """Which product ran where. A kernel may be on the GPU before its predecessor has ended, and wait there: times of
    kernels overlap, those of stages are in the table of the bench."""
    lines = ["phase        maker     calls  µs each  product and sizes -> kernel"]
    for r in found:
        lines.append(f"{r.phase:12} {r.maker:8} {r.calls:6} {r.us / r.calls:8.1f}  {r.product} -> {r.kernel[:60]}")
    return "\n".join(lines)
