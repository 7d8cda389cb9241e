# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Observation in, chunk out, in robot units: the one object that node, replay, bench and demo share."""

from __future__ import annotations

import math
import secrets
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pi_vla_ros.checkpoint import Checkpoint, load_checkpoint
from pi_vla_ros.engine import (
    DeviceConfig,
    Engine,
    EngineArgs,
    EngineConfig,
    PI0Args,
    PI0Request,
    PI05Args,
    PI05Request,
    RuntimeConfig,
)
from pi_vla_ros.model.rtc_schedule import schedule_weights
from pi_vla_ros.processing.images import Resize
from pi_vla_ros.processing.processor import Processor
from pi_vla_ros.processing.units import policy_state
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Observation

WARM_UPS = 3
LARGEST_FRAME = 1080, 1920  # height, width that a GPU resizes; larger frames take longer, on the CPU
RTC = {"rtc": "guided", "rtc_trained": "trained"}  # what each stitcher asks of the engine; the others nothing


class PolicyError(ValueError):
    """Checkpoint and robot do not fit each other; the message says in what."""


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy runs. `auto` takes the GPU and bf16 where there is one, else the CPU and fp32.

    noise_scale: 1 samples as the model was trained; less makes the answers calmer, 0 always the same.
    steps:       flow steps, 1..50; None takes the checkpoint's. Fewer are faster and coarser.
    seed:        of the noise; None draws on from one chunk to the next, a number gives every chunk the same noise,
                 which keeps consecutive chunks alike (another noise on a GPU than on a CPU: engine/noise.py).
    tokenizer:   file or folder, where the checkpoint has none (openpi's have not).
    resize:      how frames become the model's size; None: as the checkpoint was trained.
    model:       what the checkpoint must be.
    """

    target: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    cpu_threads: int = 0
    steps: int | None = None
    noise_scale: float = 1.0
    seed: int | None = None
    tokenizer: str | None = None
    resize: Resize | None = None
    model: Literal["any", "pi05", "pi0"] = "any"


class Policy:
    """A checkpoint on a robot. `infer` is called from one thread at a time."""

    def __init__(self, checkpoint: str | Path, robot: RobotConfig, options: PolicyOptions | None = None):
        """Load, warm up, capture. Raises CheckpointError, PolicyError, TokenizerError or ValueError, each for a
        person to read; nothing is partly loaded."""
        self.options = options or PolicyOptions()
        described = load_checkpoint(checkpoint)  # before the weights: a pair that does not fit is told at once
        _check_model(described, self.options.model)
        _check_cameras(described, robot)
        _check_rtc(described, robot)
        self._processor = Processor(described, robot, self.options.resize, self.options.tokenizer)
        self.model, self.notes = described.geometry.model, described.notes
        self._rtc = RTC.get(robot.motion.stitcher, "off")
        self._max_delay, self._told = described.rtc_max_delay, False
        self._engine = _engine(described, self.options, self._rtc, self._processor.resize)
        self._dt = 1.0 / robot.timing.action_hz
        self._robot, self._actions = robot, _affine([j.action for j in robot.joints])
        self._warm_up()

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptError (a ValueError) when `prompt` is empty or too long for the model."""
        self._processor.check_prompt(prompt)

    def empty_frame(self, height: int, width: int) -> np.ndarray:
        """Room for one camera's frame, (height, width, 3) uint8, to be decoded into: a GPU reads it there. Any other
        array will do, but takes longer."""
        return self._engine.empty_frame(height, width)

    def infer(self, observation: Observation, previous: ActionChunk | None = None, delay: float = 0.0) -> ActionChunk:
        """One chunk. Raises ValueError naming what is wrong with the observation; the policy stays usable.

        previous, delay: for real-time chunking (`motion.stitcher: rtc` or `rtc_trained`), the chunk that is being
        executed, and the s from an observation until its chunk takes over.
        """
        begin = time.perf_counter()
        frames = [self._processor.frames(observation.images)]
        self._engine.look(frames)  # a GPU is at the frames while the prompt is made
        state = policy_state(self._robot, observation.state)
        inputs = self._processor.prepare(observation.images, state, observation.prompt)
        request = {
            "pixel_values": None,
            "frames": frames,
            "input_ids": inputs.input_ids,
            "lang_lens": inputs.lang_lens,
            "seed": self.options.seed,
            "noise_scale": self.options.noise_scale,
        }
        if previous is not None and self._rtc != "off":
            request |= self._agree_with(previous, observation.stamp, inputs.raw_state, delay)
        prepared = time.perf_counter()
        if self.model == "pi0":
            answer = self._engine.step(PI0Request(state=inputs.state, **request))
        else:
            answer = self._engine.step(PI05Request(**request))
        stepped = time.perf_counter()
        scale, offset = self._actions
        model_actions = answer[0].numpy()
        actions = scale * self._processor.finish(model_actions, inputs.raw_state) + offset
        stage_ms = {
            "preprocess": 1e3 * (prepared - begin),
            **self._engine.stage_ms,
            "postprocess": 1e3 * (time.perf_counter() - stepped),
        }
        return ActionChunk(actions, observation.stamp, self._dt, model_actions, stage_ms)

    def close(self) -> None:
        self._engine.close()

    def _warm_up(self) -> None:
        """The first inferences on a GPU set libraries up and capture what was not yet; not on the robot's time."""
        if self._engine.target == "cuda":
            self._engine.prepare(len(self._robot.cameras))
            black = {slot: np.zeros((224, 224, 3), np.uint8) for slot in self._robot.cameras}
            for _ in range(WARM_UPS):
                self.infer(Observation(black, self._robot.measured(self._robot.home), "warm up", 0.0))

    def _agree_with(self, previous: ActionChunk, stamp: float, raw_state: np.ndarray, delay: float) -> dict:
        """What `previous` says for the times of a chunk that begins at `stamp`, and how firmly it holds."""
        g, motion = self._engine.geometry, self._robot.motion
        late = max(0, math.ceil(delay / self._dt))  # actions that are executed before the new chunk takes over
        ahead = (stamp - previous.stamp) / self._dt + np.arange(g.chunk)
        ahead = ahead[(ahead >= 0) & (ahead <= len(previous.actions) - 1)]
        scale, offset = self._actions
        said = (previous.actions - offset) / scale
        left = np.stack([np.interp(ahead, np.arange(len(said)), column) for column in said.T], axis=1)
        target = np.zeros((1, g.chunk, g.action_dim), dtype=np.float32)
        target[0, : len(left)] = self._processor.to_model(left, raw_state)
        if self._rtc == "trained":
            self._complain_of(late)
            committed = min(late, self._max_delay, len(left))
            return {"rtc_target": torch.from_numpy(target), "rtc_delay": torch.tensor([committed])}
        weights = schedule_weights(motion.rtc_schedule, late, min(motion.rtc_horizon, len(left)), g.chunk)
        return {
            "rtc_target": torch.from_numpy(target),
            "rtc_weights": torch.from_numpy(weights.astype(np.float32))[None],
            "rtc_max_guidance": motion.rtc_max_guidance,
        }

    def _complain_of(self, late: int) -> None:
        """Once: the chunks come later than the model has learnt; what is beyond is joined by the planner alone."""
        if late > self._max_delay and not self._told:
            self._told = True
            warnings.warn(
                f"a chunk takes over {late} actions after its observation; this checkpoint was trained to commit to at "
                f"most {self._max_delay} (rtc_training_max_delay). Only these agree with the chunk before: make "
                "inference faster or use motion.stitcher: rtc",
                stacklevel=3,
            )


def _engine(checkpoint: Checkpoint, options: PolicyOptions, rtc: str, resize: Resize) -> Engine:
    target = options.target
    if target == "auto":
        target = "cuda" if torch.cuda.is_available() else "cpu"
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if target == "cuda" else "fp32"
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn}[precision]
    device = DeviceConfig(target=target, params_dtype=dtype, cpu_threads=options.cpu_threads)
    model = checkpoint.geometry.model
    args = (PI0Args if model == "pi0" else PI05Args)(
        checkpoint_dir=checkpoint.path,
        num_inference_steps=options.steps,
        vision_params_dtype=None,
        seed=secrets.randbits(62),
    )
    return Engine(
        EngineArgs(
            plugin=model,
            plugin_args=args,
            config=EngineConfig(device, RuntimeConfig(rtc=rtc, resize=resize, largest_frame=LARGEST_FRAME)),
        )
    )


def _check_model(checkpoint: Checkpoint, wanted: str) -> None:
    found = checkpoint.geometry.model
    if wanted not in ("any", found):
        raise PolicyError(f"parameter model: '{wanted}' asked for, {checkpoint.path} is '{found}'")


def _check_cameras(checkpoint: Checkpoint, robot: RobotConfig) -> None:
    known = {*checkpoint.cameras, *checkpoint.rename}
    unknown = sorted(set(robot.cameras) - known)
    if unknown:
        raise PolicyError(
            f"cameras: robot '{robot.name}' has {', '.join(unknown)}, which {checkpoint.path} does not know; its "
            f"cameras are {', '.join(checkpoint.cameras)}. Name the slots in the robot file accordingly"
        )


def _check_rtc(checkpoint: Checkpoint, robot: RobotConfig) -> None:
    if robot.motion.stitcher == "rtc_trained" and not checkpoint.rtc_max_delay:
        reason = (
            "π0 cannot be"
            if checkpoint.geometry.model == "pi0"
            else f"{checkpoint.path} was not: its config.json has no rtc_training_max_delay above 0"
        )
        raise PolicyError(
            f"motion.stitcher: robot '{robot.name}' asks for rtc_trained, which needs a policy trained with committed "
            f"actions; {reason}. Use rtc or blend"
        )


def _affine(entries) -> tuple[np.ndarray, np.ndarray]:
    return np.array([e.scale for e in entries]), np.array([e.offset for e in entries])
