# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fast runner: two captured graphs, what the cameras see and the rest, each behind its upload; one download.

While the GPU runs the vision tower, the host checks, copies and launches the rest. Graphs are captured per (robots,
cameras seen, prompt bucket); prompts are rounded up to 16 tokens, the tokens that round up are masked by the robot's
length, which the graph reads from memory. Masked cameras are left out of the batch. The token embedding stays on the
host: the rows that a prompt needs are part of the second upload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.engine.fused.arena import Arena
from pi_vla_ros.engine.fused.captured import Captured
from pi_vla_ros.engine.fused.exact_vision import ExactVision
from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.engine.fused.stages import PrefixStage
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.engine.fused.vision_in_cuda import vision_stage
from pi_vla_ros.engine.fused.weights import drop
from pi_vla_ros.engine.phases import phase
from pi_vla_ros.engine.requests import Images
from pi_vla_ros.kernels.common import chained
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import each
from pi_vla_ros.processing.images import Resize

BUCKET = 16
STAGES = {"vision": 0, "prefix": 2, "expert": 3}  # the mark at which each begins; it ends at the next


class FusedRunner:
    """Runs a model whose weights it takes over: the originals are freed while they are repacked. The token embedding may
    lie on the host from the beginning."""

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
        table = model.embed_tokens.weight.detach().cpu()
        drop(model.embed_tokens)
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._arena = Arena(g, cameras, max_batch, self._prompt, device, rtc, self._frames, table, self._stream)
        self._actions = torch.empty(max_batch, g.chunk, g.action_dim, pin_memory=self._cuda)
        self._answers = self._actions.numpy()
        self._graphs: dict[tuple, Captured] = {}
        self.captured = True  # False: kernel by kernel, for profilers
        self._looked = None  # images that the vision tower has been started on
        if self._cuda:
            self._pool = torch.cuda.graph_pool_handle()
            self._copies = torch.cuda.Stream(device)
            # beside the prefix; preferred, for few programs that stay are to begin among many that come and go
            self._aside = torch.cuda.Stream(device, priority=-1)
            # vision's begin and end, those of the prefix, the expert's end
            self._marks = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(5)]
            self._ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._uploaded = torch.cuda.Event()
            torch.cuda.synchronize(device)  # the weights were packed on another stream

    def prepare(self, batch: int, cameras: int, prompt: int) -> None:
        """Compiles and captures for these sizes; a size that was not prepared is captured when it first comes."""
        bucket = self._bucket(prompt)
        for square in (False, True) if self._frames else (False,):
            self._ready(FusedRunner._see, batch, cameras, bucket if batch > 1 else 0, square)
        self._ready(FusedRunner._answer, batch, cameras, bucket)

    def empty_frame(self, height: int, width: int) -> np.ndarray:
        """Room for a frame that a step need not copy; only with a `largest_frame`."""
        return self._arena.memory.empty(height, width)

    def look(self, images: Tensor | Images, masks: list[list[bool]]) -> None:
        """Starts the vision tower on the images of one robot's step; `run` with these very images goes on from there.

        masks: per robot, which cameras are there.
        """
        if len(masks) == 1:
            self._start(images, masks, sum(masks[0]), 0)
            self._looked = images

    def run(self, inputs) -> Tensor:
        """A checked request (engine/requests.py) -> actions (B, chunk, action_dim) float32 on the host.

        pixel_values may be frames where there is a `largest_frame`.
        """
        masks = inputs.camera_mask.tolist()
        if all(m == masks[0] for m in masks):
            return self._run_group(inputs, masks[0])
        answers: list[Tensor | None] = [None] * len(masks)
        for mask in {tuple(m): m for m in masks}.values():  # robots that see with the same cameras go together
            group = [i for i, m in enumerate(masks) if m == mask]
            for i, actions in zip(group, self._run_group(_robots(inputs, group), mask), strict=True):
                answers[i] = actions
        return torch.stack(answers)

    def _run_group(self, inputs, mask: list[bool]) -> Tensor:
        """Robots that all see with the cameras of `mask`."""
        # numpy on the host: a torch operation costs several times more there, and there are a dozen
        lengths, ids = inputs.lang_lens.numpy(force=True), inputs.input_ids.numpy(force=True)
        n, seen, bucket = len(lengths), sum(mask), self._bucket(int(lengths.max()))
        replay = self._ready(FusedRunner._answer, n, seen, bucket)
        if self._looked is None or inputs.pixel_values is not self._looked:
            self._start(inputs.pixel_values, [mask] * n, seen, bucket if n > 1 else 0)
        self._looked = None
        arena, host = self._arena, self._arena.host
        np.add(lengths, seen * self.geometry.vision.tokens, out=host.lengths[:n], casting="unsafe")
        tokens = np.zeros((n, bucket), np.int64)
        used = min(bucket, ids.shape[1])
        tokens[:, :used] = ids[:, :used]
        if inputs.state is not None:
            host.state[:n] = inputs.state.numpy(force=True)
        arena.noise(n, inputs.noise)
        arena.chunk(n, getattr(inputs, "rtc", None))
        if not self._cuda:
            arena.upload(tokens)
            replay()
            return arena.device.noise[:n].clone()
        with torch.cuda.stream(self._copies):  # beside the vision tower
            arena.upload(tokens)
            self._uploaded.record()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._uploaded)
            replay()
            self._actions[:n].copy_(arena.device.noise[:n], non_blocking=True)
            self._ends[1].record()
        actions = torch.empty_like(self._actions[:n])
        room = actions.numpy()  # made beside the GPU's work: behind the wait every microsecond counts
        self._ends[1].synchronize()  # awake: a thread that sleeps until it is called comes 50 µs later
        room[:] = self._answers[:n]
        return actions

    def _start(self, images: Tensor | Images, masks: Sequence[Sequence[bool]], cameras: int, prompt: int) -> None:
        """Uploads the images of cameras that are there and launches the vision tower behind them."""
        if isinstance(images, Tensor):
            images = images.numpy(force=True)
        seen = [
            i for robot, mask in zip(images, masks, strict=True) for i, there in zip(robot, mask, strict=True) if there
        ]
        if self._cuda:
            if self._looked is not None:
                self._stream.synchronize()  # a look that nothing came of may still be reading what is written now
            self._ends[0].record(self._stream)  # from now on this thread is one of the GPU's, as a launch wants it
        square = self._arena.images(seen)
        self._ready(FusedRunner._see, len(masks), cameras, prompt, square)()

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the last step by stage; copies: what is left between upload and download, waiting for the
        host included."""
        stages = {name: self._marks[i].elapsed_time(self._marks[i + 1]) for name, i in STAGES.items()}
        return {**stages, "copies": self._ends[0].elapsed_time(self._ends[1]) - sum(stages.values())}

    def close(self) -> None:
        self._graphs.clear()
        del self.vision, self.prefix, self.expert, self._arena

    def _bucket(self, length: int) -> int:
        return min(-(-length // BUCKET) * BUCKET, self._prompt)

    def _see(self, batch: int, cameras: int, prompt: int, square: bool) -> None:
        """Images -> the prefix's first rows. prompt: tells where a robot's rows begin, of any one but the first; square:
        frames that need no resizing."""
        seen, n = cameras * self.geometry.vision.tokens, batch * cameras
        d = self._arena.device
        if n:
            self._arena.fetch(n, pdl=self._pdl)
        self._mark(0)
        with phase("vision"):
            if n:
                if self._frames:
                    images = self._frames.launch(d.records, d.block, n, square, pdl=self._pdl)
                else:
                    images = d.images[:n]
                self.vision.launch(images, self.prefix.x, seen, self.prefix.sums, seen + prompt)
        self._mark(1)

    def _answer(self, batch: int, cameras: int, prompt: int) -> None:
        """Those rows, which it spends, and the prompt -> actions in the place of the noise."""
        g, d, prefix, expert = self.geometry, self._arena.device, self.prefix, self.expert
        seen = cameras * g.vision.tokens
        noise, lengths = d.noise[:batch], d.lengths[:batch]
        words = d.words[: batch * prompt].view(batch, prompt, g.language.width)
        x_t, state = noise.view(-1, g.action_dim), None if g.model == "pi05" else d.state[:batch]
        rtc = each(self._arena.rtc, lambda t: t[:batch])
        first = expert.layers_ahead(batch, seen + prompt)
        ready = aside = None
        self._mark(2)
        with phase("prefix"):
            if first:
                ready, aside = expert.begin(first), self._aside
                aside.wait_stream(self._stream)
            prefix.launch(words, seen, lengths, expert.chunked(batch), ready)
            # Launched behind what it waits for: it would never end where kernels run one by one.
            with torch.cuda.stream(aside):
                draw(noise, d.keys[:batch], d.scale[:batch], pdl=self._pdl)
                if first:
                    expert.ahead(first, x_t, lengths, prefix.keys, prefix.values, state, rtc)
            if first:
                self._stream.wait_stream(aside)
        self._mark(3)
        with phase("expert"):
            expert.launch(
                x_t, batch, seen + prompt, lengths, prefix.keys, prefix.values, prefix.rope, state, rtc, first
            )
        self._mark(4)

    def _mark(self, i: int) -> None:
        if self._cuda and torch.cuda.is_current_stream_capturing():
            self._marks[i].record()

    def _ready(self, part: Callable[..., None], *sizes: int) -> Callable[[], None]:
        """What runs `part`, captured for these sizes."""
        captured = self._graphs.get((part, *sizes))
        if captured is not None and self.captured:
            return captured
        return self._prepared(part, *sizes)

    @torch.no_grad()
    def _prepared(self, part: Callable[..., None], *sizes: int) -> Callable[[], None]:
        if not (self._cuda and self.captured):
            return lambda: self._launch(part, *sizes)
        self._looked = None  # what was seen is overwritten
        self._launch(part, *sizes)  # compiles
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, pool=self._pool):
            part(self, *sizes)
        self._graphs[(part, *sizes)] = captured = Captured(graph, self._stream)
        return captured

    @torch.no_grad()
    def _launch(self, part: Callable[..., None], *sizes: int) -> None:
        with torch.cuda.stream(self._stream):
            part(self, *sizes)


def _robots(inputs, group: list[int]) -> SimpleNamespace:
    """The same request for some of its robots."""

    def some(value):
        if isinstance(value, list | tuple):  # frames
            return [value[i] for i in group]
        return value[group] if isinstance(value, Tensor) else each(value, lambda t: t[group])

    names = ("pixel_values", "lang_lens", "input_ids", "noise", "state", "rtc")
    return SimpleNamespace(**{name: some(getattr(inputs, name, None)) for name in names})
