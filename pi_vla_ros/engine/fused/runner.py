# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fast runner: one upload, one captured graph, one download.

A graph is captured per (robots, cameras seen, prompt bucket); prompts are rounded up to 16 tokens, the
tokens that round up are masked by the robot's length, which the graph reads from memory. Masked cameras are left out of
the batch.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from pi_vla_ros.engine.fused.arena import Arena
from pi_vla_ros.engine.fused.exact_vision import ExactVision
from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.engine.fused.stages import ExpertStage, PrefixStage
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.engine.fused.vision_in_cuda import vision_stage
from pi_vla_ros.engine.phases import phase
from pi_vla_ros.kernels.common import chained
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import each
from pi_vla_ros.processing.images import Resize

BUCKET = 16
STAGES = ("vision", "prefix", "expert")


class FusedRunner:
    """Runs a model whose weights it takes over: the originals are freed while they are repacked."""

    def __init__(self, model: PiModel, *, cameras: int, max_batch: int, steps: int = STEPS, rtc: str = "off",
                 resize: Resize = "pil", largest_frame: tuple[int, int] | None = None, tune=None, pdl=None):  # fmt: skip
        """rtc, resize, largest_frame: as in RuntimeConfig."""
        g = self.geometry = model.geometry
        self._device = device = model.action_in_proj.weight.device
        self._cuda = device.type == "cuda"
        pdl = self._pdl = chained(device) if pdl is None else pdl
        if tune is None:
            tune = tuning_for(device, max_batch)
        self._cameras, self._batch = cameras, max_batch
        self._prompt = -(-g.prompt_len // BUCKET) * BUCKET
        longest = cameras * g.vision.tokens + self._prompt
        dtype = model.embed_tokens.weight.dtype
        with torch.no_grad():
            # a graph's own keys and values end within `longest` + suffix; attention reads whole blocks but masks them
            key_rows = longest + g.suffix
            if model.projector.weight.dtype == dtype:
                self.vision = vision_stage(model, max_batch * cameras, dtype, tune, pdl)
            else:
                self.vision = ExactVision(model)
            self.prefix = PrefixStage(model, max_batch, longest, key_rows, dtype, tune, pdl)
            self.expert = ExpertStage(model, max_batch, key_rows, steps, dtype, tune, pdl, self.prefix.rope, rtc)
        size, images = g.vision.image, max_batch * cameras
        self._frames = largest_frame and Frames(size, resize, largest_frame, images, device)
        self._arena = Arena(g, cameras, max_batch, self._prompt, device, rtc, self._frames)
        self._actions = torch.empty(max_batch, g.chunk, g.action_dim, pin_memory=self._cuda)
        self._graphs: dict[tuple, object] = {}
        self.captured = True  # False: kernel by kernel, for profilers
        self._events = None
        if self._cuda:
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
            self._events = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(len(STAGES) + 1)]
            self._ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda.synchronize(device)  # the weights were packed on another stream

    def prepare(self, batch: int, cameras: int, prompt: int) -> None:
        """Compiles and captures for these sizes; a size that was not prepared is captured when it first comes."""
        self._graph(batch, cameras, self._bucket(prompt))

    def run(self, inputs) -> Tensor:
        """A checked request (engine/requests.py) -> actions (B, chunk, action_dim) float32 on the host.

        pixel_values may be frames where there is a `largest_frame`.
        """
        masks = [tuple(m) for m in inputs.camera_mask.tolist()]
        if len(set(masks)) == 1:
            return self._run_group(inputs, masks[0])
        answers: list[Tensor | None] = [None] * len(masks)
        for mask in set(masks):  # robots that see with the same cameras go together
            group = [i for i, m in enumerate(masks) if m == mask]
            for i, actions in zip(group, self._run_group(_robots(inputs, group), mask), strict=True):
                answers[i] = actions
        return torch.stack(answers)

    def _run_group(self, inputs, mask: tuple[bool, ...]) -> Tensor:
        """Robots that all see with the cameras of `mask`."""
        cameras = [i for i, seen in enumerate(mask) if seen]
        # numpy on the host: a torch operation costs several times more there, and there are a dozen
        lengths, ids = (t.numpy(force=True) for t in (inputs.lang_lens, inputs.input_ids))
        pixels = inputs.pixel_values
        if isinstance(pixels, Tensor):
            pixels = pixels.numpy(force=True)
        n = len(lengths)
        key = (n, len(cameras), self._bucket(int(lengths.max())))
        replay = self._graph(*key)
        arena = self._arena
        host, there = arena.host, arena.device
        host.lengths[:n] = lengths + len(cameras) * self.geometry.vision.tokens
        ids = ids[:, : key[2]]
        host.tokens[:n, : ids.shape[1]] = ids
        host.tokens[:n, ids.shape[1] :] = 0
        if inputs.state is not None:
            host.state[:n] = inputs.state.numpy(force=True)
        arena.noise(n, inputs.noise)
        arena.chunk(n, getattr(inputs, "rtc", None))
        used = arena.images([pixels[robot][camera] for robot in range(n) for camera in cameras])
        if not self._cuda:
            arena.upload(used)
            replay()
            return there.noise[:n].clone()
        with torch.cuda.stream(self._stream):
            self._ends[0].record()
            arena.upload(used)
            replay()
            out = self._actions[:n]
            out.copy_(there.noise[:n], non_blocking=True)
            self._ends[1].record()
        self._ends[1].synchronize()
        return out.clone()

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the last step by stage; copies: what is left between upload and download."""
        stages = {n: a.elapsed_time(b) for n, a, b in zip(STAGES, self._events, self._events[1:])}  # noqa: B905
        return {**stages, "copies": self._ends[0].elapsed_time(self._ends[1]) - sum(stages.values())}

    def close(self) -> None:
        self._graphs.clear()
        del self.vision, self.prefix, self.expert, self._arena

    def _bucket(self, length: int) -> int:
        return min(-(-length // BUCKET) * BUCKET, self._prompt)

    def _launch(self, batch: int, cameras: int, prompt: int, mark=lambda i: None) -> None:
        g, d = self.geometry, self._arena.device
        seen = cameras * g.vision.tokens
        share = seen + prompt
        x_t = d.noise[:batch].view(-1, g.action_dim)
        mark(0)
        with phase("vision"):
            draw(d.noise[:batch], d.keys[:batch], d.scale[:batch], pdl=self._pdl)
            if cameras:
                n = batch * cameras
                images = self._frames.launch(d.records, d.block, n, pdl=self._pdl) if self._frames else d.images[:n]
                self.vision.launch(images, self.prefix.x, seen, self.prefix.sums, share)
        mark(1)
        with phase("prefix"):
            self.prefix.launch(d.tokens[:batch], seen, prompt, d.lengths[:batch], self.expert.chunked(batch))
        mark(2)
        with phase("expert"):
            self.expert.launch(x_t, batch, share, d.lengths[:batch], self.prefix.keys, self.prefix.values, self.prefix.rope,
                               None if g.model == "pi05" else d.state[:batch],
                               each(self._arena.rtc, lambda t: t[:batch]))  # fmt: skip
        mark(3)

    @torch.no_grad()
    def _graph(self, *key):
        """Replays (batch, cameras, prompt bucket)."""
        if not (self._cuda and self.captured):
            return lambda: self._launch(*key)
        if key not in self._graphs:
            with torch.cuda.stream(self._stream):
                self._launch(*key)  # compiles
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self._stream, pool=self._pool):
                    self._launch(*key, mark=lambda i: self._events[i].record())
            self._graphs[key] = graph
        return self._graphs[key].replay


def _robots(inputs, group: list[int]) -> SimpleNamespace:
    """The same request for some of its robots."""

    def some(value):
        if isinstance(value, list | tuple):  # frames
            return [value[i] for i in group]
        return value[group] if isinstance(value, Tensor) else each(value, lambda t: t[group])

    names = ("pixel_values", "lang_lens", "input_ids", "noise", "state", "rtc")
    return SimpleNamespace(**{name: some(getattr(inputs, name, None)) for name in names})
