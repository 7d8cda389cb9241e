# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Set up once, then step: the engine holds a model, a runner, and the noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.checkpoint import Checkpoint, load_checkpoint, load_model, random_model
from pi_vla_ros.engine.config import EngineArgs
from pi_vla_ros.engine.fp8 import to_fp8
from pi_vla_ros.engine.graphs import BUCKET, GraphRunner
from pi_vla_ros.engine.noise import Draw, NoiseSource
from pi_vla_ros.engine.plugins import MAX_STEPS, find_plugin
from pi_vla_ros.engine.reference import ReferenceRunner
from pi_vla_ros.engine.requests import (
    Images,
    Limits,
    PI0Request,
    PI05Request,
    RequestError,
    check,
    check_frames,
    check_images,
)
from pi_vla_ros.engine.trial import compare, question
from pi_vla_ros.kernels.flow_loop import begun
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.processing.images import square_images


class Engine:
    """π0 or π0.5 on one device.

    `step` is called from one thread at a time. Everything slow (loading, warming up, capturing graphs) happens here
    in the constructor, never in `step`.
    """

    def __init__(self, args: EngineArgs):
        self.target = args.config.device.target
        self._plugin = find_plugin(args.plugin, args.plugin_args)
        wanted, config = args.plugin_args, args.config
        device = config.device
        if device.target == "cpu" and device.cpu_threads:
            torch.set_num_threads(device.cpu_threads)
        self.checkpoint: Checkpoint | None = None
        if wanted.checkpoint_dir is not None:
            self.checkpoint = load_checkpoint(wanted.checkpoint_dir, wanted.checkpoint_settings)
        self.geometry: Geometry = self.checkpoint.geometry if self.checkpoint else wanted.random_geometry
        if self.geometry.model != args.plugin:
            raise ValueError(
                f"plugin: '{args.plugin}' asked for, but {wanted.checkpoint_dir or 'random_geometry'} "
                f"is a '{self.geometry.model}' model"
            )
        self.cameras = len(self.checkpoint.cameras) if self.checkpoint else wanted.cameras
        self.max_batch_size = wanted.max_batch_size
        self.steps = wanted.num_inference_steps or (self.checkpoint.steps if self.checkpoint else wanted.steps)
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(
                f"num_inference_steps: the checkpoint asks for {self.steps}; allowed: 1..{MAX_STEPS}. "
                "Give num_inference_steps"
            )
        self._rtc = config.runtime.rtc
        self._limits = Limits(self.geometry, self.cameras, self.max_batch_size, self._rtc, self._trained_delay(wanted))
        captured = device.target == "cuda" and config.runtime.use_cuda_graph
        vision = wanted.vision_params_dtype or device.params_dtype
        ours = device.params_dtype == torch.bfloat16 and vision in (torch.bfloat16, torch.float32)
        self.fused = captured and ours and config.runtime.fused
        self._resize = config.runtime.resize or (self.checkpoint.resize if self.checkpoint else "pil")
        self._largest_frame = config.runtime.largest_frame
        self._looked: Images | None = None  # by `look`, not yet by `step`
        self._runner = self._make_runner(lambda: self._build(wanted, device), captured)
        self._noise = NoiseSource(wanted.seed, (self.geometry.chunk, self.geometry.action_dim))

    def prepare(self, cameras: int) -> None:
        """Capture for requests in which only `cameras` of the cameras are there: what a robot with fewer will send."""
        if self.fused:
            for batch in range(1, self.max_batch_size + 1):
                for length in [*range(BUCKET, self.geometry.prompt_len, BUCKET), self.geometry.prompt_len]:
                    self._runner.prepare(batch, cameras, length)

    def _make_runner(self, build, captured: bool):
        sizes = {"cameras": self.cameras, "max_batch": self.max_batch_size, "steps": self.steps}
        if not captured:
            return ReferenceRunner(build(), **sizes)
        sizes["rtc"] = self._rtc
        if not self.fused:
            return GraphRunner(build(), **sizes)
        try:
            return self._make_fused(build(), sizes)
        except Exception as error:  # a GPU that our kernels were not tried on: slower, but it runs, and says so
            first = str(error).partition("\n")[0]
            warnings.warn(f"our kernels are not used here ({first}), but the PyTorch model's graphs", stacklevel=3)
            self.fused, self._runner = False, None
            torch.cuda.empty_cache()
            return GraphRunner(build(), **sizes)

    def _make_fused(self, model, sizes):
        """Our kernels' runner, once it has shown that it answers as the model does."""
        from pi_vla_ros.engine.fused.runner import FusedRunner  # Triton is there only with a GPU's PyTorch

        asked = [question(self.geometry, self.cameras, batch) for batch in sorted({1, self.max_batch_size})]
        plain = ReferenceRunner(model, **{name: sizes[name] for name in ("cameras", "max_batch", "steps")})
        with torch.no_grad():
            expected = [plain.run(inputs) for inputs, _ in asked]
        plain.close()
        self._runner = FusedRunner(model, **sizes, resize=self._resize, largest_frame=self._largest_frame)
        self.prepare(self.cameras)
        for (inputs, frames), answer in zip(asked, expected, strict=True):
            if self._largest_frame:
                inputs = replace(inputs, pixel_values=frames)
            with torch.inference_mode():
                compare(self._runner.run(inputs), answer)
        return self._runner

    def _trained_delay(self, wanted) -> int:
        """Actions that may be committed; 0 unless asked for. Raises ValueError where the model was not trained so."""
        if self._rtc != "trained":
            return 0
        if self.geometry.model == "pi0":
            raise ValueError("RuntimeConfig.rtc: 'trained' is π0.5's; a π0 model can be 'guided'")
        most = wanted.rtc_training_max_delay
        if most is None:
            most = self.checkpoint.rtc_max_delay if self.checkpoint else 0
        if not 0 < most < self.geometry.chunk:
            raise ValueError(
                f"RuntimeConfig.rtc: 'trained' needs a checkpoint trained with rtc_training_max_delay in "
                f"1..{self.geometry.chunk - 1}; it is {most} in {wanted.checkpoint_dir or 'this random model'}. "
                "'guided' works with every checkpoint"
            )
        return most

    def _build(self, wanted, device):
        if self.fused:  # the kernel that takes longest to compile: beside the weights
            begun(self.geometry, device.device, held=self._rtc == "trained")
        base = torch.bfloat16 if device.fp8 else device.params_dtype
        how = {
            "params_dtype": base,
            "vision_dtype": None if device.fp8 else wanted.vision_params_dtype,
            "device": device.device,
            "table": "cpu" if self.fused else None,  # PyTorch's graphs read it: it goes with the rest
        }
        if self.checkpoint:
            model = load_model(self.checkpoint, **how)
        else:
            model = random_model(self.geometry, seed=wanted.seed, **how)
        return to_fp8(model) if device.fp8 else model

    def empty_frame(self, height: int, width: int) -> np.ndarray:
        """Room for a frame, (height, width, 3) uint8 to be written.

        On a GPU it lies in pinned memory: a step whose frames all do need not copy them. It is free for another frame
        when the array and its views are gone; where none is free, or the frame is larger than `largest_frame`, it is
        ordinary memory."""
        self._open("empty_frame")
        if self.fused and self._largest_frame:
            return self._runner.empty_frame(height, width)
        return np.empty((height, width, 3), np.uint8)

    def look(self, frames: Images) -> None:
        """Start on the frames of the next step: a GPU runs the vision tower while whoever asks is still at the prompt.

        `step` is then given these very `frames`, unchanged; any others are as good as if nothing had been started.
        frames: as in `PI05Request`. Raises RequestError.
        """
        self._open("look")
        seen = check_frames(frames, self._limits)
        if self.fused and self._largest_frame:
            self._runner.look(*seen)
            self._looked = frames

    def step(self, request: PI05Request | PI0Request) -> Tensor:
        """Actions (B, chunk, action_dim), float32, on the host, in model units. Raises RequestError."""
        self._open("step")
        if type(request) is not self._plugin.request:
            raise RequestError(f"request: must be {self._plugin.request.__name__}, is {type(request).__name__}")
        images, masks = check_images(request, self._limits)
        if not (isinstance(images, Tensor) or (self.fused and self._largest_frame)):
            images = square_images(images, self.geometry.vision.image, self._resize)
        looked, self._looked = self._looked, None
        if self.fused and (looked is None or images is not looked):
            self._runner.look(images, masks)  # the GPU has two milliseconds to do while the rest is checked
        inputs = check(request, (images, masks), self._limits)
        if isinstance(inputs.noise, Draw):
            make = self._noise.on_gpu if self.fused else self._noise.on_host
            inputs.noise = make(len(inputs.lang_lens), inputs.noise)
        return self._runner.run(inputs)

    def _open(self, asked: str) -> None:
        if self._runner is None:
            raise RuntimeError(f"Engine.{asked}: the engine is closed")

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of the last step by stage: vision, prefix, expert, copies."""
        return self._runner.stage_ms() if self._runner else {}

    def flow_step_ms(self) -> list[float]:
        """Milliseconds of each flow step of the last answer to one robot, where one kernel runs all; else empty."""
        return self._runner.expert.step_ms() if self.fused and self._runner else []

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Steps in here run kernel by kernel, in ranges named by phase: for profilers. Fused engines only."""
        self._runner.captured = False
        try:
            yield
        finally:
            self._runner.captured = True

    def close(self) -> None:
        """Free the model, its buffers and graphs. Safe to call twice."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_) -> None:
        self.close()
