# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an engine is asked: tensors with fixed shapes, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.engine.noise import Draw, Keys
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.rtc import MAX_GUIDANCE, Chunking, Committed, Guidance
from pi_vla_ros.processing.images import check_frame

Images = Sequence[Sequence[np.ndarray | None]]


class RequestError(ValueError):
    """A request does not fit the engine; the message names the field."""


@dataclass(frozen=True)
class PI05Request:
    """One step for B robots, 1 <= B <= max_batch_size.

    pixel_values: (B, cameras, 3, S, S) float32 in [-1, 1], or None: `frames` are given.
    input_ids:    (B, L) int64, padded on the right with 0; L up to the engine's prompt length.
    lang_lens:    (B,) int64, valid tokens of each prompt, 1..L.
    noise:        (B, chunk, action_dim) float32, or None: drawn from `seed`, times `noise_scale`.
    camera_mask:  (B, cameras) bool, or None: all cameras are there, or those that have a frame.
    frames:       per robot and camera a (H, W, 3) uint8 RGB array of any size, None where the camera is not there; they
                  are resized as `RuntimeConfig.resize` says. Fastest in arrays of `Engine.empty_frame`.
    seed:         of the noise that is drawn: an int, or (B,) int64 with one a robot, or None: the engine's own sequence
                  goes on. The same seed gives the same noise on the same kind of engine (engine/noise.py).
    noise_scale:  of the noise that is drawn.
    rtc_target:   (B, n, action_dim) float32, or None: no real-time chunking. What the previous chunk says for the times
                  of this one, model units. Guided: n is the chunk, 0 where the previous one has ended; trained: n is at
                  least every rtc_delay.
    rtc_weights:  guided: (B, chunk) float32, how strongly each action is held to the target, 0..1.
    rtc_max_guidance: guided: the largest factor of a flow step's correction.
    rtc_delay:    trained: (B,) int64, how many of a robot's first actions are the target's; 0: none.

    Which of the two an engine does is said when it is built: `RuntimeConfig.rtc`.
    """

    pixel_values: Tensor | None
    input_ids: Tensor
    lang_lens: Tensor
    noise: Tensor | None = None
    camera_mask: Tensor | None = None
    frames: Images | None = None
    seed: int | Tensor | None = None
    noise_scale: float = 1.0
    rtc_target: Tensor | None = None
    rtc_weights: Tensor | None = None
    rtc_max_guidance: float = MAX_GUIDANCE
    rtc_delay: Tensor | None = None

    state = None  # π0.5 reads the state from the prompt


@dataclass(frozen=True)
class PI0Request:
    """As `PI05Request`, with the normalised state (B, action_dim) float32, padded with 0."""

    pixel_values: Tensor | None
    input_ids: Tensor
    lang_lens: Tensor
    state: Tensor
    noise: Tensor | None = None
    camera_mask: Tensor | None = None
    frames: Images | None = None
    seed: int | Tensor | None = None
    noise_scale: float = 1.0
    rtc_target: Tensor | None = None
    rtc_weights: Tensor | None = None
    rtc_max_guidance: float = MAX_GUIDANCE
    rtc_delay: Tensor | None = None


@dataclass
class Inputs:
    """A checked request. Shapes as in `PI05Request`; state is None for π0.5; noise, or what it is
    drawn from (Draw as checked, Keys for a runner that draws itself); pixel_values are frames for one that resizes."""

    pixel_values: Tensor | Images
    input_ids: Tensor
    lang_lens: Tensor
    camera_mask: Tensor
    noise: Tensor | Draw | Keys
    state: Tensor | None
    rtc: Chunking | None


@dataclass(frozen=True)
class Limits:
    """What an engine can be asked. rtc: `RuntimeConfig.rtc`; max_delay: the most actions that may be committed."""

    geometry: Geometry
    cameras: int
    max_batch: int
    rtc: str
    max_delay: int


Seen = tuple[Tensor | Images, list[list[bool]]]  # pixel_values or frames; per robot, which cameras are there


def check_images(request: PI05Request | PI0Request, limits: Limits) -> Seen:
    """What a request lets the model see, validated."""
    if request.pixel_values is not None:
        return _pixels(request, limits)
    if request.camera_mask is not None:
        raise RequestError("camera_mask: frames say themselves which cameras are there: None where one is not")
    if request.frames is None:
        raise RequestError("pixel_values: must be a torch.Tensor, or frames be given")
    return check_frames(request.frames, limits)


def check(request: PI05Request | PI0Request, seen: Seen, limits: Limits) -> Inputs:
    """Validate the rest of a request against the engine and fill in what is optional."""
    g = limits.geometry
    images, masks = seen
    batch = len(masks)
    ids = _tensor("input_ids", request.input_ids, torch.int64)
    if ids.ndim != 2 or ids.shape[0] != batch or not 1 <= ids.shape[1] <= g.prompt_len:
        raise RequestError(f"input_ids: must be ({batch}, 1..{g.prompt_len}), is {tuple(ids.shape)}")
    _within("input_ids", ids, 0, g.vocab - 1)
    lengths = _tensor("lang_lens", request.lang_lens, torch.int64)
    _shape("lang_lens", lengths, (batch,))
    _within("lang_lens", lengths, 1, ids.shape[1])
    noise = _draw(request, batch) if request.noise is None else request.noise
    if request.noise is not None:
        _floats("noise", noise, (batch, g.chunk, g.action_dim))
    if g.model == "pi0":
        _floats("state", request.state, (batch, g.action_dim))
    rtc = _chunking(request, batch, limits)
    return Inputs(images, ids, lengths, torch.tensor(masks), noise, request.state, rtc)


def _batch(name: str, batch: int, limits: Limits) -> None:
    if not 1 <= batch <= limits.max_batch:
        raise RequestError(f"{name}: batch is {batch}; allowed: 1..{limits.max_batch} (max_batch_size)")


def _pixels(request: PI05Request | PI0Request, limits: Limits) -> Seen:
    if request.frames is not None:
        raise RequestError("frames: pixel_values are given too; give one of them")
    images, size = _tensor("pixel_values", request.pixel_values, torch.float32), limits.geometry.vision.image
    batch = images.shape[0] if images.ndim else 0
    _batch("pixel_values", batch, limits)
    _shape("pixel_values", images, (batch, limits.cameras, 3, size, size))
    if request.camera_mask is None:
        return images, [[True] * limits.cameras for _ in range(batch)]
    _shape("camera_mask", _tensor("camera_mask", request.camera_mask, torch.bool), (batch, limits.cameras))
    return images, request.camera_mask.tolist()


def check_frames(frames: Images, limits: Limits) -> Seen:
    """Frames and what they say of the cameras."""
    _batch("frames", len(frames), limits)
    for i, robot in enumerate(frames):
        if len(robot) != limits.cameras:
            raise RequestError(f"frames[{i}]: must have {limits.cameras} entries, one a camera; has {len(robot)}")
        for j, frame in enumerate(robot):
            if frame is not None:
                try:
                    check_frame(frame, f"frames[{i}][{j}]")
                except ValueError as error:
                    raise RequestError(str(error)) from error
    return frames, [[frame is not None for frame in robot] for robot in frames]


def _draw(request: PI05Request | PI0Request, batch: int) -> Draw:
    seed, scale = request.seed, request.noise_scale
    if isinstance(seed, Tensor):
        _shape("seed", _tensor("seed", seed, torch.int64), (batch,))
    elif seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**63):
        raise RequestError(f"seed: must be a whole number from 0 to 2^63 - 1, is {seed!r}")
    if not (math.isfinite(scale) and scale >= 0):
        raise RequestError(f"noise_scale: must be 0 or more, is {scale}")
    return Draw(seed, float(scale))


def _chunking(request: PI05Request | PI0Request, batch: int, limits: Limits) -> Chunking | None:
    """None where nothing is asked: such a step is an ordinary one to the last bit."""
    g, target, weights, delay = limits.geometry, request.rtc_target, request.rtc_weights, request.rtc_delay
    given = [name for name in ("rtc_target", "rtc_weights", "rtc_delay") if getattr(request, name) is not None]
    if not given:
        return None
    foreign = {"off": given, "guided": ["rtc_delay"], "trained": ["rtc_weights"]}[limits.rtc]
    for name in foreign:
        if name in given:
            raise RequestError(
                f"{name}: this engine was built with RuntimeConfig(rtc='{limits.rtc}'); "
                f"{'guided or trained' if limits.rtc == 'off' else limits.rtc} real-time chunking is asked for there"
            )
    if limits.rtc == "guided":
        _floats("rtc_target", target, (batch, g.chunk, g.action_dim))
        _floats("rtc_weights", weights, (batch, g.chunk))
        if not (math.isfinite(request.rtc_max_guidance) and request.rtc_max_guidance >= 0):
            raise RequestError(f"rtc_max_guidance: must be 0 or more, is {request.rtc_max_guidance}")
        return Guidance(target, weights, torch.full((batch,), float(request.rtc_max_guidance)))
    if target is None:
        return None
    _shape("rtc_delay", _tensor("rtc_delay", delay, torch.int64), (batch,))
    longest = int(delay.max())
    if longest <= 0:
        return None
    if longest > limits.max_delay:
        raise RequestError(
            f"rtc_delay: is {longest}; this checkpoint was trained for at most {limits.max_delay} committed actions"
        )
    known = _tensor("rtc_target", target, torch.float32).shape[1] if target.ndim == 3 else 0
    if not longest <= known <= g.chunk:
        raise RequestError(
            f"rtc_target: must be ({batch}, {longest} (the longest rtc_delay)..{g.chunk}, {g.action_dim}), "
            f"is {tuple(target.shape)}"
        )
    _floats("rtc_target", target, (batch, known, g.action_dim))
    return Committed(torch.nn.functional.pad(target, (0, 0, 0, g.chunk - known)), delay)


def _tensor(name: str, value, dtype: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor):
        raise RequestError(f"{name}: must be a torch.Tensor, is {type(value).__name__}")
    if value.dtype != dtype:
        raise RequestError(f"{name}: must be {dtype}, is {value.dtype}")
    return value


def _shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise RequestError(f"{name}: must be {shape}, is {tuple(value.shape)}")


def _within(name: str, value: Tensor, low: int, high: int) -> None:
    numbers = value.numpy(force=True)  # NumPy: a PyTorch operation takes several times as long to begin
    least, most = int(numbers.min()), int(numbers.max())
    if least < low or most > high:
        raise RequestError(f"{name}: must lie in {low}..{high}, has {least}..{most}")


def _floats(name: str, value, shape: tuple[int, ...]) -> None:
    _shape(name, _tensor(name, value, torch.float32), shape)
    if not np.isfinite(value.numpy(force=True)).all():
        raise RequestError(f"{name}: has NaN or infinite entries")
