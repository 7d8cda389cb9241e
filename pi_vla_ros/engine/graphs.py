# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Captured graphs over the PyTorch model: the same operations without the cost of launching them one by one.

One graph per stage and prompt bucket. Inputs are written into static tensors, graphs are replayed, the result is read
from a static tensor. All buckets are captured at set-up: π0.5's prompt carries the state, so its length changes from
tick to tick and nothing may be captured in the control loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vla_ros.engine.requests import Inputs
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.pi import PiModel, Prefix
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance

BUCKET = 16  # tokens by which captured prompt lengths differ
WARM_UPS = 2  # runs before a capture: libraries set themselves up on a first call, which cannot be captured


@dataclass(frozen=True)
class CudaGraph:
    """A captured function of static inputs, and its static result."""

    graph: torch.cuda.CUDAGraph
    output: object

    @classmethod
    def capture(cls, function: Callable[[], object], pool) -> CudaGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = function()
        return cls(graph, output)


class GraphRunner:
    """Replays vision, prefix and expert graphs; smaller batches are padded with copies of their first robot.

    Guidance is always part of the expert's graph where it may be asked for: weights of 0 guide nothing. Committed
    actions have a graph of their own, because a time per action makes other sums of the norms' modulations, and a step
    without them must not change by a bit.
    """

    def __init__(self, model: PiModel, *, cameras: int, max_batch: int, steps: int, rtc: str = "off"):
        g = model.geometry
        self._model, self._steps, self._batch = model, steps, max_batch
        self._device = model.action_in_proj.weight.device
        self._pool = torch.cuda.graph_pool_handle()
        size = g.vision.image
        with torch.device(self._device):
            self._images = torch.zeros(max_batch, cameras, 3, size, size)
            self._cameras = torch.ones(max_batch, cameras, dtype=torch.bool)
            self._ids = torch.zeros(max_batch, g.prompt_len, dtype=torch.int64)
            self._lengths = torch.ones(max_batch, dtype=torch.int64)
            self._noise = torch.zeros(max_batch, g.chunk, g.action_dim)
            self._state = torch.zeros(max_batch, g.action_dim) if g.model == "pi0" else None
            target, weights = torch.zeros_like(self._noise), torch.zeros(max_batch, g.chunk)
            self._guidance = Guidance(target, weights, torch.zeros(max_batch)) if rtc == "guided" else None
            delay = torch.zeros(max_batch, dtype=torch.int64)
            self._committed = Committed(target, delay) if rtc == "trained" else None
        self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(6)]
        self._captured: dict[int, tuple[CudaGraph, CudaGraph, CudaGraph | None]] = {}
        with torch.inference_mode():
            self._vision = CudaGraph.capture(lambda: model.embed_images(self._images.flatten(0, 1)), self._pool)
            for length in [*range(BUCKET, g.prompt_len, BUCKET), g.prompt_len]:
                self._captured[length] = self._capture(length)

    def _capture(self, length: int) -> tuple[CudaGraph, CudaGraph, CudaGraph | None]:
        """Prefix, expert, and expert with committed actions."""
        model = self._model

        def prefix() -> Prefix:
            seen = self._vision.output.unflatten(0, self._cameras.shape)
            return model.prefix(*model.join_prefix(seen, self._cameras, self._ids[:, :length], self._lengths))

        before = CudaGraph.capture(prefix, self._pool)

        def expert(rtc: Chunking | None) -> CudaGraph:
            inputs = before.output, self._noise, self._state, self._steps, rtc
            return CudaGraph.capture(lambda: sample(model, *inputs), self._pool)

        return before, expert(self._guidance), self._committed and expert(self._committed)

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> Tensor:
        """A checked request -> actions (B, chunk, action_dim) float32 on the host."""
        marks = iter(self._marks)
        next(marks).record()
        self._write(self._images, inputs.pixel_values)
        self._write(self._cameras, inputs.camera_mask)
        self._write(self._ids[:, : inputs.input_ids.shape[1]], inputs.input_ids)
        self._write(self._lengths, inputs.lang_lens)
        self._write(self._noise, inputs.noise)
        if self._state is not None:
            self._write(self._state, inputs.state)
        rtc = inputs.rtc
        if isinstance(rtc, Committed):
            self._write(self._committed.target, rtc.target)
            self._write(self._committed.delay, rtc.delay)
        elif rtc is not None:
            self._write(self._guidance.target, rtc.target)
            self._write(self._guidance.weights, rtc.weights)
            self._write(self._guidance.most, rtc.most)
        elif self._guidance:
            self._guidance.weights.zero_()
        longest = int(inputs.lang_lens.max())
        prefix, free, committed = self._captured[min(length for length in self._captured if length >= longest)]
        expert = committed if isinstance(rtc, Committed) else free
        next(marks).record()
        for graph in (self._vision, prefix, expert):
            graph.graph.replay()
            next(marks).record()
        actions = expert.output[: len(inputs.noise)].cpu()
        next(marks).record()
        return actions

    def stage_ms(self) -> dict[str, float]:
        marks = self._marks
        marks[-1].synchronize()
        upload, vision, prefix, expert, download = (a.elapsed_time(b) for a, b in itertools.pairwise(marks))
        return {"vision": vision, "prefix": prefix, "expert": expert, "copies": upload + download}

    def close(self) -> None:
        self._captured.clear()
        del self._vision, self._model, self._images

    def _write(self, static: Tensor, value: Tensor) -> None:
        static[: len(value)].copy_(value, non_blocking=True)
        if len(value) < self._batch:
            static[len(value) :].copy_(value[:1].expand(self._batch - len(value), *value.shape[1:]), non_blocking=True)
