# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Finds the fastest tiles for this GPU: each candidate is timed inside its whole stage, captured, with cold weights.

One field of the Tuning after the other (coordinate descent): what a product costs depends on what runs around it, so
it is not timed alone. Compiling is most of the work and is spread over processes first; Triton's disk cache hands the
results over.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import torch

from pi_vla_ros.engine.fused.stages import ExpertStage, PrefixStage, VisionStage
from pi_vla_ros.engine.fused.tuning import AttentionTile, Tuning
from pi_vla_ros.kernels.common import chained
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
CANDIDATES = {
    "vision": {
        "vision_attention": [AttentionTile(bm, bk, s, w) for bm, w in ((128, 4), (128, 8), (64, 4))
                             for bk in (64, 128) for s in (2, 3)],
        "projector": WIDE,
    },
    "prefix": {
        "prefix_qkv": WIDE + NARROW[:4],
        "prefix_attention": [AttentionTile(bm, bk, s, w) for bm, bk, s, w in (
            (64, 64, 2, 4), (64, 64, 3, 4), (64, 32, 2, 4), (64, 32, 3, 4), (64, 128, 2, 4), (128, 64, 2, 8),
            (128, 32, 3, 8), (128, 128, 2, 8), (64, 64, 2, 8))],
        "prefix_out": WIDE,
    },
    "expert": {
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
    },
}  # fmt: skip


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

    def __init__(self, model: PiModel, tune: Tuning, prompt: int, cameras: int = 3, steps: int = 1):
        g = self._g = model.geometry
        device = self._device = model.projector.weight.device
        dtype, pdl = model.projector.weight.dtype, chained(device)
        self._seen, self._prompt = cameras * g.vision.tokens, prompt
        longest = self._seen + prompt
        key_rows = longest + g.suffix
        with torch.no_grad():
            self.vision = VisionStage(model, cameras, dtype, tune, pdl)
            self.prefix = PrefixStage(model, 1, longest, key_rows, dtype, tune, pdl)
            self.expert = ExpertStage(model, 1, key_rows, steps, dtype, tune, pdl, self.prefix.rope)
        self._images = torch.rand(cameras, 3, g.vision.image, g.vision.image, device=device) * 2 - 1
        self._tokens = torch.randint(g.vocab, (1, prompt), device=device)
        self._lengths = torch.tensor([longest], device=device, dtype=torch.int32)
        self._x_t = torch.randn(g.chunk, g.action_dim, device=device)
        self._state = torch.randn(1, g.action_dim, device=device)

    def launch(self, stage: str) -> None:
        p = self.prefix
        if stage == "vision":
            self.vision.launch(self._images, p.x, self._seen, p.sums, self._seen + self._prompt)
        elif stage == "prefix":
            p.launch(self._tokens, self._seen, self._prompt, self._lengths)
        else:
            self.expert.launch(
                self._x_t, 1, self._seen + self._prompt, self._lengths, p.keys, p.values, p.rope, self._state
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

    def time(self, stage: str, replays: int = 20) -> float:
        """Median milliseconds of a captured stage."""
        return medians([self.capture(stage)], replays)[0]


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


def _shallow(geometry: Geometry) -> Geometry:
    """The same sizes with one layer (two in the prefix, whose last one is different)."""
    return replace(
        geometry,
        vision=replace(geometry.vision, depth=1),
        language=replace(geometry.language, depth=2),
        expert=replace(geometry.expert, depth=2),
        vocab=512,
    )


def _compile(job: tuple[Geometry, Tuning, int, list[tuple[str, str, object]]]) -> None:
    geometry, start, prompt, candidates = job
    model = blank_model(_shallow(geometry), torch.device("cuda"), torch.bfloat16)
    bench = Bench(model, start, prompt)
    for stage, field, candidate in candidates:
        try:
            bench.retune(replace(start, **{field: candidate}))
            bench.launch(stage)
        except Exception:
            continue
    torch.cuda.synchronize()


def compile_candidates(geometry: Geometry, start: Tuning, prompt: int, stages, processes: int) -> None:
    everything = [(s, f, c) for s in stages for f, cs in CANDIDATES[s].items() for c in cs]
    jobs = [(geometry, start, prompt, everything[i::processes]) for i in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_compile, jobs, chunksize=1)


def tune(bench: Bench, start: Tuning, stages=tuple(CANDIDATES), say=print, replays: int = 20) -> Tuning:
    """Coordinate descent over the candidates of `stages`: each challenger is timed against the champion of the hour."""
    best, kept = start, []
    bench.retune(best)
    for stage in stages:
        champion = bench.capture(stage)
        for field, candidates in CANDIDATES[stage].items():
            for candidate in candidates:
                if candidate == getattr(best, field):
                    continue
                kept.append([dict(vars(s)) for s in (bench.vision, bench.prefix, bench.expert)])  # a graph's buffers
                try:
                    bench.retune(replace(best, **{field: candidate}))
                    challenger = bench.capture(stage)
                except Exception as error:
                    say(f"  {field} {candidate}: {type(error).__name__} {str(error)[:60]}")
                    continue
                old, new = medians([champion, challenger], replays)
                say(f"  {field:17} {new:.3f} against {old:.3f} ms {candidate}")
                if new < 0.995 * old:
                    best, champion = replace(best, **{field: candidate}), challenger
        bench.retune(best)
    return best
