# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is once read, whatever format it came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.processing.images import Resize
from pi_vla_ros.processing.normalize import Normalization
from pi_vla_ros.processing.prompt import PromptStyle
from pi_vla_ros.processing.relative import RelativeActions


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the key and the reason."""


class Weights(Protocol):
    """A checkpoint's tensors under canonical names (`PiModel.state_dict()`'s), on disk until read."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape, from the headers; also of tensors that the model does not have."""

    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype on disk, 'float32', 'bfloat16' or 'float16'."""

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor once, one (or one stacked group) in memory at a time."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose metadata and tensor headers are read and valid; the tensors are still on disk.

    path:            the folder (or file) it was read from.
    format:          'lerobot', 'openpi' (PyTorch) or 'openpi-jax'.
    geometry_source: setting ('vision.heads', 'chunk', ...) -> 'our key', 'tensor shapes',
    'config.json' or 'default'.
    cameras:         slots in the model's order, names without 'observation.images.'.
    rename:          other names of slots, as the data set called them -> slot.
    state_dim, action_dim: the robot's, not padded.
    open_dims:       the two are only upper bounds (padded base model): the robot decides.
    action_names:    meaning of each action dimension, where the checkpoint says.
    steps:           Euler steps that the checkpoint asks for.
    rtc_max_delay:   committed actions that it was trained with at most (model/rtc.py); 0: not trained so.
    relative:        which actions are offsets from the state; None: none.
    resize:          how camera frames were resized in training.
    tokenizer:       file or folder; None: not found.
    constant_dims:   statistics with a width of 0 were accepted on request.
    notes:           decisions that a user should know of.
    """

    path: Path
    format: str
    geometry: Geometry
    geometry_source: Mapping[str, str]
    cameras: tuple[str, ...]
    state_dim: int
    action_dim: int
    action_names: tuple[str, ...] | None
    steps: int
    normalization: Normalization
    prompt_style: PromptStyle
    relative: RelativeActions | None
    resize: Resize
    tokenizer: Path | None
    weights: Weights = field(repr=False)
    rename: Mapping[str, str] = field(default_factory=dict)
    open_dims: bool = False
    constant_dims: bool = False
    rtc_max_delay: int = 0
    notes: tuple[str, ...] = ()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(canonical name, tensor) of every parameter of the model, read one after the other."""
        return self.weights.read()
