# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an engine is asked: tensors with fixed shapes, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vla_ros.model.geometry import Geometry


class RequestError(ValueError):
    """A request does not fit the engine; the message names the field."""


@dataclass(frozen=True)
class PI05Request:
    """One step for B robots, 1 <= B <= max_batch_size.

    pixel_values: (B, cameras, 3, S, S) float32 in [-1, 1].
    input_ids:    (B, L) int64, padded on the right with 0; L up to the engine's prompt length.
    lang_lens:    (B,) int64, valid tokens of each prompt, 1..L.
    noise:        (B, chunk, action_dim) float32, or None: drawn from `seed`.
    camera_mask:  (B, cameras) bool, or None: all cameras are there.
    seed:         seed of the noise, or None: the engine's own sequence goes on.
    rtc_target:   (B, chunk, action_dim) float32, or None: no real-time chunking. What the previous chunk says for the
                  times of this one, model units, 0 where it has ended.
    rtc_weights:  (B, chunk) float32, with `rtc_target`: how strongly each action is held to it, 0..1.
    """

    pixel_values: Tensor
    input_ids: Tensor
    lang_lens: Tensor
    noise: Tensor | None = None
    camera_mask: Tensor | None = None
    seed: int | None = None
    rtc_target: Tensor | None = None
    rtc_weights: Tensor | None = None

    state = None  # π0.5 reads the state from the prompt


@dataclass(frozen=True)
class PI0Request:
    """As `PI05Request`, with the normalised state (B, action_dim) float32, padded with 0."""

    pixel_values: Tensor
    input_ids: Tensor
    lang_lens: Tensor
    state: Tensor
    noise: Tensor | None = None
    camera_mask: Tensor | None = None
    seed: int | None = None
    rtc_target: Tensor | None = None
    rtc_weights: Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """A checked request, everything present. Shapes as in `PI05Request`; state is None for π0.5."""

    pixel_values: Tensor
    input_ids: Tensor
    lang_lens: Tensor
    camera_mask: Tensor
    noise: Tensor
    state: Tensor | None
    rtc: tuple[Tensor, Tensor] | None  # target and weights


def check(request: PI05Request | PI0Request, g: Geometry, cameras: int, max_batch: int, draw) -> Inputs:
    """Validate a request against the engine and fill in what is optional. `draw(batch, seed)` makes the noise."""
    images = _tensor("pixel_values", request.pixel_values, torch.float32)
    batch = images.shape[0] if images.ndim else 0
    if not 1 <= batch <= max_batch:
        raise RequestError(f"pixel_values: batch is {batch}; allowed: 1..{max_batch} (max_batch_size)")
    _shape("pixel_values", images, (batch, cameras, 3, g.vision.image, g.vision.image))
    ids = _tensor("input_ids", request.input_ids, torch.int64)
    if ids.ndim != 2 or ids.shape[0] != batch or not 1 <= ids.shape[1] <= g.prompt_len:
        raise RequestError(f"input_ids: must be ({batch}, 1..{g.prompt_len}), is {tuple(ids.shape)}")
    _within("input_ids", ids, 0, g.vocab - 1)
    lengths = _tensor("lang_lens", request.lang_lens, torch.int64)
    _shape("lang_lens", lengths, (batch,))
    _within("lang_lens", lengths, 1, ids.shape[1])
    if request.camera_mask is None:
        mask = torch.ones(batch, cameras, dtype=torch.bool)
    else:
        mask = _tensor("camera_mask", request.camera_mask, torch.bool)
        _shape("camera_mask", mask, (batch, cameras))
    noise = draw(batch, request.seed) if request.noise is None else request.noise
    _floats("noise", noise, (batch, g.chunk, g.action_dim))
    if g.model == "pi0":
        _floats("state", request.state, (batch, g.action_dim))
    rtc = None
    if request.rtc_target is not None or request.rtc_weights is not None:
        _floats("rtc_target", request.rtc_target, (batch, g.chunk, g.action_dim))
        _floats("rtc_weights", request.rtc_weights, (batch, g.chunk))
        rtc = request.rtc_target, request.rtc_weights
    return Inputs(images, ids, lengths, mask, noise, request.state, rtc)


def _tensor(name: str, value, dtype: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor):
        raise RequestError(f"{name}: must be a torch.Tensor, is {type(value).__name__}")
    if value.dtype != dtype:
        raise RequestError(f"{name}: must be {dtype}, is {value.dtype}")
    return value


def _shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise RequestError(f"{name}: must be {shape}, is {tuple(value.shape)}")


def _within(name: str, value: Tensor, low: int, high: int) -> None:
    if int(value.min()) < low or int(value.max()) > high:
        raise RequestError(f"{name}: must lie in {low}..{high}, has {int(value.min())}..{int(value.max())}")


def _floats(name: str, value, shape: tuple[int, ...]) -> None:
    _shape(name, _tensor(name, value, torch.float32), shape)
    if not bool(torch.isfinite(value).all()):
        raise RequestError(f"{name}: has NaN or infinite entries")
