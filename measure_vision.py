# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision pass in CUDA beside the present one, on a Hopper GPU: checked, then timed. One JSON line a result.

    python3 measure_vision.py [--parts kernels stage sizes layers cuts]        # about 4 minutes for all

Each part is a process of its own with a time limit: a kernel that hangs costs that part only.
kernels  each kernel at full size against fp32, 50 runs bit by bit equal
stage    the whole pass, 3 images: relative errors to the fp32 model, equality of replays with and without launch
         chaining, milliseconds of captured graphs in turn (library / cuda / cuda with Triton's attention)
sizes    the same milliseconds for 1, 2, 4, 6, 12 images
layers   microseconds of each kernel of a layer, start to start and alone (profiler)
cuts     each product, 27 different weights in a row, cut in other ways; the library's beside it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))

from pi_vla_ros.engine.fused import vision_in_cuda
from pi_vla_ros.engine.fused.autotune import blank_model, medians
from pi_vla_ros.engine.fused.stages import VisionStage, gelu_linear, statistics
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.engine.fused.vision_in_cuda import CudaVision, fits
from pi_vla_ros.kernels import image_attention as attending
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.image_attention import image_attention
from pi_vla_ros.kernels.vision_attention import vision_attention
from pi_vla_ros.kernels.vision_linear import (
    Activations,
    Cut,
    Product,
    add_linear,
    linear,
    moments_for,
    prefix_linear,
    row_moments,
)
from pi_vla_ros.model.geometry import PI05

GPU = torch.device("cuda")
BF16 = {"device": GPU, "dtype": torch.bfloat16}
LIMITS = {"kernels": 150, "stage": 150, "sizes": 150, "layers": 120, "cuts": 240}
REPLAYS = 60


def say(**result) -> None:
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in result.items()}), flush=True)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def norm(width: int) -> torch.nn.LayerNorm:
    n = torch.nn.LayerNorm(width, eps=1e-6, **BF16).requires_grad_(False)
    n.weight.copy_(1 + 0.3 * torch.randn(width)), n.bias.copy_(0.3 * torch.randn(width))
    return n


def captured(launch) -> torch.cuda.CUDAGraph:
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph


def attempt(name: str, what) -> None:
    """The other checks go on."""
    try:
        what()
    except Exception as e:
        say(check=name, failed=f"{type(e).__name__}: {str(e)[:300]}")


# --- kernels --------------------------------------------------------------------------------------------------------


def check(name: str, launch, buffers: list[torch.Tensor], got: torch.Tensor, want: torch.Tensor, limit: float) -> None:
    """launch writes `buffers`, which are put back before each run; `got` is a view of one."""
    before = [b.clone() for b in buffers]
    begin = time.perf_counter()
    launch()
    torch.cuda.synchronize()
    took, first, same = time.perf_counter() - begin, got.clone(), True
    for _ in range(50):
        for b, old in zip(buffers, before, strict=True):
            b.copy_(old)
        launch()
        same &= torch.equal(got, first)
    off = error(first, want)
    say(check=name, ok=off <= limit and same, error=off, limit=limit, same_bits=same, first_call_s=took)


def kernels() -> None:
    torch.manual_seed(0)
    for m in (256, 768, 1536):

        def normed(n, width, gelu, m=m):
            k = 1152
            x, w, b, ln = torch.randn(m, k, **BF16) + 1, torch.randn(n, k, **BF16) / 34, torch.randn(n, **BF16), norm(k)
            moments, out = torch.zeros(18, m, 2, device=GPU), torch.full((m, n), float("nan"), **BF16)
            row_moments(x, moments, pdl=False)
            want = (
                F.layer_norm(x.double(), (k,), ln.weight.double(), ln.bias.double(), 1e-6) @ w.double().T + b.double()
            )
            want = F.gelu(want, approximate="tanh") if gelu else want
            product, a = Product.of(w, b, Cut(width), ln), Activations.of(x)
            check(
                f"linear {m}x{n} width {width}",
                lambda: linear(a, m, product, out, moments, gelu=gelu, pdl=False),
                [out],
                out,
                want,
                3e-3,
            )

        def added(k, cut, m=m):
            n = 1152
            a, w, b, x = (
                torch.randn(m, k, **BF16),
                torch.randn(n, k, **BF16) / k**0.5,
                torch.randn(n, **BF16),
                torch.randn(m, n, **BF16),
            )
            want, moments = x.double() + a.double() @ w.double().T + b.double(), moments_for(cut, n, m, GPU)
            product, rows = Product.of(w, b, cut), Activations.of(a)
            check(
                f"add_linear {m}x{k} {cut}",
                lambda: add_linear(rows, m, product, x, moments, pdl=False),
                [x, moments],
                x,
                want,
                3e-3,
            )
            parts = x.float().unflatten(1, (len(moments), -1))
            theirs = torch.stack([parts.sum(-1), parts.square().sum(-1)], -1).transpose(0, 1)
            say(check=f"moments {m}x{k} {cut}", ok=torch.allclose(moments, theirs, rtol=1e-4, atol=1e-3))

        def attended(m=m):
            images, qkv, out = m // 256, torch.randn(m, 3456, **BF16), torch.full((m, 1152), float("nan"), **BF16)
            q, k, v = (t.double().view(images, 256, 16, 72).transpose(1, 2) for t in qkv.chunk(3, 1))
            want = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(m, 1152)
            where = attending.map_of(qkv)
            check(f"attention {m}", lambda: image_attention(where, images, 16, out, pdl=False), [out], out, want, 4e-3)

        def projected(m=m):
            k, n = 1152, 2048
            x, w, b, ln = torch.randn(m, k, **BF16), torch.randn(n, k, **BF16) / 34, torch.randn(n, **BF16), norm(k)
            moments, out = torch.zeros(18, m, 2, device=GPU), torch.full((m + m // 256 * 30, n), float("nan"), **BF16)
            sums = torch.zeros(16, len(out), device=GPU)
            row_moments(x, moments, pdl=False)
            want = (
                F.layer_norm(x.double(), (k,), ln.weight.double(), ln.bias.double(), 1e-6) @ w.double().T + b.double()
            )
            product, a = Product.of(w, b, Cut(128), ln), Activations.of(x)
            got = out.view(m // 256, 286, n)[:, :256]
            check(f"prefix_linear {m}", lambda: prefix_linear(a, m, product, out, moments, sums, 256, 286, pdl=False),
                  [out, sums], got, want.view(m // 256, 256, n), 3e-3)  # fmt: skip

        attempt("attention", attended)
        attempt("qkv", lambda: normed(3456, 160, False))
        attempt("fc1", lambda: normed(4304, 200, True))
        for cut in (Cut(128, 2), Cut(96), Cut(128)):
            attempt("add", lambda: [added(k, cut) for k in (1152, 4304)])  # noqa: B023
        attempt("projector", projected)


# --- stage ----------------------------------------------------------------------------------------------------------


def model(seed: int = 0):
    """The tower and the projector at full size; little else."""
    torch.manual_seed(seed)
    small = replace(PI05, language=replace(PI05.language, depth=1), expert=replace(PI05.expert, depth=1), vocab=512)
    return blank_model(small, GPU, torch.bfloat16)


class Pass:
    """A stage with what it reads and writes. triton: attention by Triton between CUDA's products."""

    def __init__(self, cuda: bool, images: int, pdl: bool = True, triton: bool = False, ahead: bool = True):
        tune, m = replace(tuning_for(GPU, 1), vision_ahead=ahead), model()
        assert not cuda or fits(m, tune)
        self.stage = CudaVision(m, images, tune, pdl) if cuda else VisionStage(m, images, torch.bfloat16, tune, pdl)
        self.triton, self.at, self.pdl = triton, tune.vision_attention, pdl
        torch.manual_seed(1)
        self.images = torch.rand(images, 3, 224, 224, device=GPU) * 2 - 1
        share = images * 256 + 48
        self.out, self.sums = torch.zeros(share, 2048, **BF16), statistics(2048, 128, share, GPU)

    def launch(self) -> None:
        ours = vision_in_cuda.image_attention
        if self.triton:
            at, s = self.at, self.stage

            def by_triton(where, n, heads, out, ahead, pdl):
                tile = {"bm": at.bm, "bk": at.bk, "stages": at.stages, "warps": at.warps}
                vision_attention(s._qkv[: n * 256], out[: n * 256], 256, heads, pdl=pdl, **tile)

            vision_in_cuda.image_attention = by_triton
        try:
            self.stage.launch(self.images, self.out, 256 * len(self.images), self.sums, len(self.out))
        finally:
            vision_in_cuda.image_attention = ours


PASSES = {
    "library": {"cuda": False},
    "cuda": {"cuda": True},
    "cuda, weights not ahead": {"cuda": True, "ahead": False},
    "cuda, Triton's attention": {"cuda": True, "triton": True},
}


@torch.no_grad()
def stage() -> None:
    torch.backends.cudnn.allow_tf32 = False
    exact = model().float()
    for name, how in PASSES.items():

        def one(name=name, how=how):
            p = Pass(images=3, **how)
            want = exact.projector(exact.vision(p.images)).flatten(0, 1)
            p.launch()
            torch.cuda.synchronize()
            got = p.out[: len(want)].clone()
            say(
                stage=name,
                images=3,
                error_to_fp32=error(got, want),
                sums_ok=torch.allclose(p.sums.buffer[:, : len(want)].sum(0), got.float().square().sum(1), rtol=1e-2),
            )
            graph, same = captured(p.launch), True
            for _ in range(100):
                p.out.fill_(float("nan"))
                graph.replay()
                same &= torch.equal(p.out[: len(want)], got)
            say(stage=name, replays=100, same_bits=same)
            plain = Pass(images=3, pdl=False, **how)
            plain.launch()
            torch.cuda.synchronize()
            say(stage=name, without_chaining_same_bits=torch.equal(plain.out[: len(want)], got))

        attempt(name, one)
    theirs = model()
    images = Pass(cuda=False, images=3).images
    want = exact.projector(exact.vision(images))
    say(stage="PyTorch bf16", error_to_fp32=error(theirs.projector(theirs.vision(images).bfloat16()), want))
    times(3)


@torch.no_grad()
def times(images: int) -> None:
    passes = {}
    for name, how in PASSES.items():

        def one(name=name, how=how):
            p = Pass(images=images, **how)
            passes[name] = p, captured(p.launch)

        attempt(name, one)
    graphs = {name: graph for name, (_, graph) in passes.items()}
    for turn in range(3):
        ms = dict(zip(graphs, medians(list(graphs.values()), REPLAYS), strict=True))
        say(images=images, turn=turn, ms=ms)


def sizes() -> None:
    for images in (1, 2, 4, 6, 12):
        times(images)


@torch.no_grad()
def layers() -> None:
    from torch.profiler import ProfilerActivity, profile

    for name, how in PASSES.items():

        def one(name=name, how=how):
            p = Pass(images=3, **how)
            graph = captured(p.launch)
            for _ in range(20):
                graph.replay()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as told:
                for _ in range(5):
                    graph.replay()
                torch.cuda.synchronize()
            rows = [e for e in told.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            rows = sorted((e.time_range.start, e.time_range.end, e.name) for e in rows)
            each = len(rows) // 5
            a_layer = {"library": None}.get(name, 5)
            spent: dict[str, list] = {}
            for turn in range(5):
                run = rows[turn * each : (turn + 1) * each]
                for i, (start, end, kernel) in enumerate(run[:-1]):
                    place = "" if a_layer is None or not 3 <= i < each - 1 else f"{(i - 3) % a_layer} "
                    spent.setdefault(place + kernel[:60], []).append((run[i + 1][0] - start, end - start))
            for kernel, pairs in sorted(spent.items()):
                to_start, alone = (sorted(p[j] for p in pairs)[len(pairs) // 2] for j in range(2))
                say(
                    layers=name,
                    kernel=kernel,
                    calls_a_pass=len(pairs) / 5,
                    start_to_start_us=float(to_start),
                    alone_us=float(alone),
                )

        attempt(name, one)


@torch.no_grad()
def cuts() -> None:
    ways = {
        "qkv": (3456, 1152, [Cut(160), Cut(160, stages=3), Cut(160, stages=4), Cut(128), Cut(192), Cut(208)]),
        "fc1": (4304, 1152, [Cut(200), Cut(200, stages=3), Cut(200, stages=4), Cut(168), Cut(144)]),
        "out": (1152, 1152, [Cut(128, 2), Cut(128, 2, 4), Cut(96), Cut(64), Cut(128)]),
        "fc2": (1152, 4304, [Cut(128, 2), Cut(128, 2, 4), Cut(96), Cut(64), Cut(128)]),
    }
    for name, (n, k, some) in ways.items():
        attempt(name, lambda: cuts_of(name, n, k, some))  # noqa: B023


def cuts_of(name: str, n: int, k: int, ways: list[Cut], m: int = 768, depth: int = 27) -> None:
    torch.manual_seed(0)
    a, x, out = torch.randn(m, k, **BF16), torch.zeros(m, n, **BF16), torch.empty(m, n, **BF16)
    weights = [torch.randn(n, k, **BF16) / k**0.5 for _ in range(depth)]
    b, ln, rows, back = torch.zeros(n, **BF16), norm(k), Activations.of(a), name in ("out", "fc2")
    moments = torch.zeros(18, m, 2, device=GPU)
    if not back:
        row_moments(a, moments, pdl=False)

    def library():
        for w in weights:
            if name == "qkv":
                torch.addmm(b, a, w.T, out=out)
            elif name == "fc1":
                gelu_linear(a, w.T, b, out)
            else:
                torch.addmm(x, a, w.T, out=x)

    def ours(cut: Cut, ahead: bool) -> None:
        products = [Product.of(w, b, cut, None if back else ln) for w in weights]
        left = moments_for(cut, n, m, GPU) if back else None

        def launch():
            for w, following in zip(products, products[1:] + products[:1], strict=True):
                behind = {"ahead": following.w if ahead else None, "pdl": True}
                if back:
                    add_linear(rows, m, w, x, left, **behind)
                else:
                    linear(rows, m, w, out, moments, gelu=name == "fc1", **behind)

        graph = captured(launch)
        graphs[f"{cut.width} / {cut.split}, {cut.stages} stages{', ahead' if ahead else ''}"] = graph
        kept.append((products, left))

    graphs, kept = {"library": captured(library)}, []
    for i, cut in enumerate(ways):
        attempt(f"{name} {cut}", lambda: ours(cut, False))  # noqa: B023
        if i == 0:
            attempt(f"{name} {cut}", lambda: ours(cut, True))  # noqa: B023
    us = [1e3 * t / depth for t in medians(list(graphs.values()), REPLAYS)]
    say(cuts=name, us={way: round(t, 2) for way, t in zip(graphs, us, strict=True)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--here", action="store_true", help="in this process")
    asked = parser.parse_args()
    if asked.here:
        for part in asked.parts:
            globals()[part]()
    else:
        say(gpu=torch.cuda.get_device_name(), available=available(GPU), torch=torch.__version__)
        for part in asked.parts:
            begin = time.perf_counter()
            try:
                rc = subprocess.run(
                    [sys.executable, __file__, "--here", "--parts", part], timeout=LIMITS[part]
                ).returncode
            except subprocess.TimeoutExpired:
                rc = "over its limit"
            say(part=part, rc=rc, seconds=time.perf_counter() - begin)
