# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Finds the fastest tiles for this GPU: each candidate is timed inside its whole stage, captured, with cold weights.

One field of the Tuning after the other (coordinate descent): what a product costs depends on what runs around it, so
it is not timed alone. Compiling is most of the work and is spread over processes first; Triton's disk cache hands the
results over.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.stages import PrefixStage
from pi_vla_ros.engine.fused.tuning import AttentionTile, Tuning
from pi_vla_ros.engine.fused.vision_in_cuda import vision_stage
from pi_vla_ros.kernels import expert_linear
from pi_vla_ros.kernels.common import chained
from pi_vla_ros.kernels.cuda import available
from pi_vla_ros.kernels.linear import Tile
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.pi import PiModel, parameter_dtype

WIDE = [
    Tile(128, 128, 64, 3, 8), Tile(128, 128, 64, 4, 8), Tile(128, 128, 64, 4, 4), Tile(128, 128, 128, 3, 8),
    Tile(128, 256, 64, 3, 8), Tile(128, 256, 64, 4, 8), Tile(256, 128, 64, 3, 8), Tile(256, 128, 64, 4, 8),
    Tile(64, 256, 64, 4, 4), Tile(64, 128, 64, 4, 4), Tile(64, 128, 64, 5, 4),
]  # fmt: skip
NARROW = [
    Tile(128, 64, 64, 4, 4), Tile(128, 64, 64, 5, 4), Tile(128, 64, 128, 3, 4), Tile(128, 64, 128, 4, 8),
    Tile(64, 64, 64, 6, 4), Tile(64, 64, 128, 4, 4), Tile(64, 128, 64, 5, 4), Tile(64, 128, 128, 3, 4),
    Tile(128, 128, 64, 4, 8), Tile(128, 128, 64, 4, 4),
]  # fmt: skip
STAGES = ("vision", "prefix", "expert")
VISION = {
    "vision_attention": [AttentionTile(bm, bk, s, w) for bm, w in ((128, 4), (128, 8), (64, 4))
                         for bk in (64, 128) for s in (2, 3)],
    "projector": WIDE,
}  # fmt: skip
PREFIX = {
    "prefix_qkv": WIDE + NARROW[:4],
    "prefix_attention": [AttentionTile(bm, bk, s, w) for bm, bk, s, w in (
        (64, 64, 2, 4), (64, 64, 3, 4), (64, 32, 2, 4), (64, 32, 3, 4), (64, 128, 2, 4), (128, 64, 2, 8),
        (128, 32, 3, 8), (128, 128, 2, 8), (64, 64, 2, 8))],
    "prefix_out": WIDE,
}  # fmt: skip
ONE_ROBOT = {  # all rows in one tile: narrow ones, and the inner axis in pieces
    "expert_up": [Tile(64, bn, bk, s, w) for bn, bk, s, w in (
        (64, 64, 4, 4), (64, 64, 6, 4), (64, 128, 3, 4), (64, 128, 4, 4), (64, 128, 5, 4), (64, 256, 3, 4),
        (64, 128, 4, 8), (32, 128, 4, 4), (32, 128, 6, 4), (128, 128, 3, 4))],
    "expert_down": [Tile(64, bn, bk, s, 4, split) for bn, bk, s, split in (
        (64, 128, 4, 8), (64, 64, 6, 8), (64, 128, 4, 4), (32, 128, 4, 4), (32, 128, 6, 4), (32, 256, 3, 4),
        (32, 128, 6, 2), (16, 128, 6, 2), (16, 256, 4, 2), (16, 256, 4, 1), (128, 128, 3, 16), (64, 256, 2, 8))],
    "expert_qkv": [Tile(64, bn, bk, s, 4) for bn, bk, s in (
        (32, 128, 4), (32, 128, 5), (32, 128, 6), (32, 256, 3), (32, 256, 4), (16, 128, 4), (16, 256, 4),
        (64, 128, 4), (32, 64, 6))],
    "expert_out": [Tile(64, bn, bk, s, 4, split) for bn, bk, s, split in (
        (32, 128, 4, 4), (32, 256, 2, 4), (32, 128, 4, 2), (32, 256, 4, 2), (16, 128, 4, 2), (16, 256, 4, 2),
        (16, 256, 4, 1), (16, 128, 6, 1), (64, 128, 2, 8), (64, 128, 4, 4), (16, 128, 4, 4))],
    "expert_attention": [AttentionTile(bm, bk, 1, w, blocks, join) for bm, bk, w, blocks, join in (
        (64, 64, 4, 1, 4), (64, 64, 4, 1, 2), (64, 64, 4, 1, 1), (64, 64, 4, 2, 4), (64, 128, 4, 1, 4),
        (64, 128, 8, 1, 4), (64, 64, 8, 1, 4), (64, 32, 4, 2, 4), (64, 32, 4, 4, 4), (128, 64, 8, 1, 4),
        (16, 128, 4, 1, 4), (32, 128, 4, 1, 4), (32, 64, 4, 2, 4))],
}  # fmt: skip
MORE_ROBOTS = {  # several tiles of rows: wider ones, which read the weights less often, and fewer pieces
    "expert_up": [Tile(bm, bn, bk, s, w) for bm, bn, bk, s, w in (
        (128, 128, 64, 4, 8), (128, 128, 64, 3, 8), (128, 128, 128, 3, 8), (128, 64, 64, 5, 4), (128, 64, 128, 4, 4),
        (256, 64, 64, 4, 8), (256, 128, 64, 3, 8), (128, 256, 64, 3, 8), (64, 128, 64, 5, 4), (64, 128, 128, 3, 4))],
    "expert_down": [Tile(bm, bn, bk, s, w, split) for bm, bn, bk, s, w, split in (
        (128, 64, 64, 5, 4, 4), (128, 64, 128, 4, 4, 4), (128, 64, 128, 4, 8, 4), (128, 64, 128, 4, 4, 2),
        (128, 128, 64, 4, 8, 4), (128, 128, 64, 4, 8, 8), (64, 64, 128, 4, 4, 4), (64, 64, 128, 4, 4, 2),
        (128, 32, 128, 4, 4, 2), (256, 64, 64, 4, 8, 8))],
    "expert_qkv": [Tile(bm, bn, bk, s, w) for bm, bn, bk, s, w in (
        (128, 32, 128, 4, 4), (128, 64, 64, 5, 4), (128, 64, 128, 4, 4), (128, 64, 128, 3, 8), (64, 64, 128, 4, 4),
        (64, 64, 64, 6, 4), (64, 128, 64, 5, 4), (256, 32, 64, 4, 8))],
    "expert_out": [Tile(bm, bn, bk, s, w, split) for bm, bn, bk, s, w, split in (
        (128, 64, 128, 3, 4, 4), (128, 64, 64, 4, 4, 4), (128, 64, 128, 4, 4, 2), (128, 32, 128, 4, 4, 2),
        (64, 64, 128, 4, 4, 2), (64, 64, 128, 3, 4, 4), (64, 32, 128, 4, 4, 1), (128, 128, 64, 4, 8, 8))],
    "expert_attention": [AttentionTile(bm, bk, 1, w, blocks, join) for bm, bk, w, blocks, join in (
        (64, 64, 4, 2, 4), (64, 64, 4, 4, 4), (64, 64, 4, 8, 4), (64, 128, 4, 2, 4), (64, 128, 8, 2, 4),
        (128, 64, 8, 2, 4), (128, 64, 8, 4, 4), (128, 64, 8, 8, 4), (64, 64, 4, 4, 8), (64, 64, 4, 4, 2))],
}  # fmt: skip


# tiles that kernels in CUDA do not use, and those of several robots' products where they fit
IN_CUDA = ("vision_attention", "projector", "prefix_qkv", "prefix_out", "expert_attention")
PRODUCTS = ("expert_qkv", "expert_out", "expert_up", "expert_down")


def candidates(robots: int, cuda: bool, products: bool = False) -> dict[str, dict[str, list]]:
    """stage -> field of the Tuning -> what it may be. cuda: whether the kernels in CUDA run; products: the expert's, too."""
    all_of = {"vision": VISION, "prefix": PREFIX, "expert": MORE_ROBOTS if robots > 1 else ONE_ROBOT}
    unused = IN_CUDA * cuda + PRODUCTS * (cuda and products)
    return {s: {n: tiles for n, tiles in fields.items() if n not in unused} for s, fields in all_of.items()}


def blank_model(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> PiModel:
    """A model of random numbers in bf16 with its fp32 parts; every matrix keeps the size of what it multiplies."""
    with torch.device("meta"):
        model = PiModel(geometry)
    for name, p in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        fresh = torch.empty(p.shape, device=device, dtype=parameter_dtype(name, dtype))
        fresh.normal_(0.0, p[0].numel() ** -0.5 if p.ndim > 1 else 0.2)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(fresh, requires_grad=False))
    return model.eval()


class Bench:
    """The three stages of one model with inputs to run on, each timed alone."""

    def __init__(self, model: PiModel, tune: Tuning, prompt: int, cameras: int = 3, robots: int = 1, steps: int = 1):
        g = model.geometry
        device = model.projector.weight.device
        dtype, pdl = model.projector.weight.dtype, chained(device)
        self._seen, self._prompt, self._robots = cameras * g.vision.tokens, prompt, robots
        longest = self._seen + prompt
        key_rows = longest + g.suffix
        with torch.no_grad():
            self.vision = vision_stage(model, robots * cameras, dtype, tune, pdl)
            self.prefix = PrefixStage(model, robots, longest, key_rows, dtype, tune, pdl)
            self.expert = ExpertStage(model, robots, key_rows, steps, dtype, tune, pdl, self.prefix.rope)
        self._images = torch.rand(robots * cameras, 3, g.vision.image, g.vision.image, device=device) * 2 - 1
        width = g.language.width
        self._words = torch.randn(robots, prompt, width, device=device, dtype=dtype) * width**-0.5
        self._lengths = torch.full((robots,), longest, device=device, dtype=torch.int32)
        self._noise = torch.randn(robots * g.chunk, g.action_dim, device=device)
        self._x_t = self._noise.clone()
        self._state = torch.randn(robots, g.action_dim, device=device)

    def launch(self, stage: str) -> None:
        p = self.prefix
        if stage == "vision":
            self.vision.launch(self._images, p.x, self._seen, p.sums, self._seen + self._prompt)
        elif stage == "prefix":
            p.launch(self._words, self._seen, self._lengths)
        else:
            self._x_t.copy_(self._noise)  # or it would grow from replay to replay
            self.expert.launch(
                self._x_t, self._robots, self._seen + self._prompt, self._lengths, p.keys, p.values, p.rope, self._state
            )

    def retune(self, tune: Tuning) -> None:
        for stage in (self.vision, self.prefix, self.expert):
            stage.retune(tune)

    def capture(self, stage: str) -> torch.cuda.CUDAGraph:
        self.launch(stage)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.launch(stage)
        return graph


def medians(graphs: list[torch.cuda.CUDAGraph], replays: int) -> list[float]:
    """Median milliseconds of each, replayed in turn: clocks drift under load, and drift alike for all."""
    spent = [[] for _ in graphs]
    for graph in graphs:
        graph.replay()
    for _ in range(replays):
        for graph, times in zip(graphs, spent, strict=True):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            graph.replay()
            marks[1].record()
            times.append(marks)
    torch.cuda.synchronize()
    return [sorted(a.elapsed_time(b) for a, b in times)[replays // 2] for times in spent]


def shallow(geometry: Geometry) -> Geometry:
    """The same sizes with one layer (two in the prefix, whose last one is different)."""
    return replace(
        geometry,
        vision=replace(geometry.vision, depth=1),
        language=replace(geometry.language, depth=2),
        expert=replace(geometry.expert, depth=2),
        vocab=512,
    )


@dataclass(frozen=True)
class Search:
    """What is tuned: a model's sizes and a robot's inputs."""

    geometry: Geometry
    start: Tuning
    prompt: int
    cameras: int
    robots: int

    def bench(self, geometry: Geometry, device: torch.device) -> Bench:
        model = blank_model(geometry, device, torch.bfloat16)
        separate = replace(self.start, resident=False)  # the resident kernel would run instead of what is tuned
        return Bench(model, separate, self.prompt, self.cameras, self.robots)

    def choices(self) -> Iterator[tuple[str, str, list]]:
        cuda = torch.cuda.is_available() and available(torch.device("cuda"))
        g = self.geometry
        products = expert_linear.fits(self.robots, g.suffix, g.expert)
        for stage, fields in candidates(self.robots, cuda, products).items():
            for name, tiles in fields.items():
                yield stage, name, tiles


def tune(search: Search, device: torch.device, processes: int, say=print) -> Tuning:
    """The fastest tiles found; minutes, and the GPU to itself."""
    everything = [(stage, name, tile) for stage, name, tiles in search.choices() for tile in tiles]
    jobs = [(search, everything[i::processes]) for i in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_compile, jobs, chunksize=1)
    with torch.no_grad():
        return descend(search.bench(search.geometry, device), search, say)


def _compile(job: tuple[Search, list[tuple[str, str, object]]]) -> None:
    """Fills Triton's disk cache."""
    search, tiles = job
    bench = search.bench(shallow(search.geometry), torch.device("cuda"))
    for stage, name, tile in tiles:
        with contextlib.suppress(Exception):  # too large for this GPU: `descend` says so
            bench.retune(replace(search.start, **{name: tile}))
            bench.launch(stage)
    torch.cuda.synchronize()


def descend(bench: Bench, search: Search, say=print, replays: int = 20) -> Tuning:
    """Coordinate descent: each challenger is timed against the champion of the hour."""
    best, kept = search.start, []
    champions: dict[str, torch.cuda.CUDAGraph] = {}

    def retune(tuning: Tuning) -> None:
        kept.append([dict(vars(s)) for s in (bench.vision, bench.prefix, bench.expert)])  # buffers of captured graphs
        bench.retune(tuning)

    for stage, name, tiles in search.choices():
        retune(best)
        champion = champions.get(stage) or bench.capture(stage)
        for tile in tiles:
            if tile == getattr(best, name):
                continue
            try:
                retune(replace(best, **{name: tile}))
                challenger = bench.capture(stage)
            except Exception as error:
                say(f"  {name} {tile}: {type(error).__name__} {str(error)[:60]}")
                continue
            old, new = medians([champion, challenger], replays)
            say(f"  {name:17} {new:.3f} against {old:.3f} ms {tile}")
            if new < 0.995 * old:
                best, champion = replace(best, **{name: tile}), challenger
        champions[stage] = champion
    return best
