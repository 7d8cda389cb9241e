# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Random weights with which a model behaves like one: bounded, and all that it sees matters.

A plain random network would not do for a demo or a benchmark: attention averages over hundreds of
tokens, so prompt and state drown; every norm of π0.5's expert starts as a constant (its dense is
zero-initialised), so mistakes in it do not show. The scales in `_GAIN` are measured
(test/test_random_model.py): actions of about half a unit, and prompt, state and images each move
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from pi_vla_ros.checkpoint.load import assemble, place_of
from pi_vla_ros.checkpoint.weights import parameter_shapes
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.pi import PiModel, parameter_dtype

# how much larger than 1 / sqrt(inputs) a weight is; 1 keeps the size of what goes through
_GAIN = {
    r"language\..*\.[qk]_proj\.": 2.5,  # sharp: a token reads a few others, so the prompt reaches all
    r"language\..*\.o_proj\.": 4.0,
    r"expert\..*\.k_proj\.": 4.0,  # π0's state is one key among hundreds: it must stand out
    r"expert\..*\.o_proj\.": 6.0,  # what is seen weighs more than the noise that is being turned into actions
    r"\.dense\.": 0.5,
    r"state_proj\.": 3.0,
    r"action_in_proj\.": 0.3,
    r"action_out_proj\.": 0.6,  # actions of about half a unit
}
_BIAS = {r"\.dense\.": 0.3, r"action_in_proj\.": 0.3}  # standard deviations; others: _SMALL
_SMALL = 0.02


def random_model(
    geometry: Geometry,
    params_dtype: torch.dtype = torch.float32,
    vision_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    table: torch.device | str | None = None,
) -> PiModel:
    """A model of any geometry with seeded random weights, made on `device`; eval mode, no gradients.

    table: as in `load_model`; its numbers are drawn on `device` like the others, and moved.
    """
    pairs = random_tensors(geometry, seed, device)
    cast = ((n, t.to(parameter_dtype(n, params_dtype, vision_dtype))) for n, t in pairs)
    return assemble(geometry, ((n, moved(t, place_of(n, device, table))) for n, t in cast))


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. From a GPU to the host its pages are touched first, by all threads: a copy that meets
    untouched ones waits for each."""
    if tensor.is_cuda and torch.device(device).type == "cpu":
        return torch.empty(tensor.shape, dtype=tensor.dtype).fill_(0).copy_(tensor)
    return tensor.to(device)


def random_tensors(
    geometry: Geometry, seed: int = 0, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, fp32 tensor) of every parameter."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in parameter_shapes(geometry).items():
        tensor = torch.randn(shape, generator=generator, device=device)
        scale, offset = _scale(name, shape)
        yield name, tensor.mul_(scale).add_(offset)


def _scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Standard deviation and mean of a parameter."""
    if name.endswith(".bias"):
        return _first(_BIAS, name, _SMALL), 0.0
    if len(shape) == 1:  # a norm: LayerNorm multiplies by w, RMSNorm by 1 + w
        return _SMALL, 1.0 if name.startswith("vision.") else 0.0
    if name == "embed_tokens.weight":
        return 1.0 / math.sqrt(shape[1]), 0.0  # the model multiplies by sqrt(width)
    if name == "vision.position_embedding.weight":
        return 0.5, 0.0
    return _first(_GAIN, name, 1.0) / math.sqrt(math.prod(shape[1:])), 0.0


def _first(table: dict[str, float], name: str, default: float) -> float:
    return next((value for pattern, value in table.items() if re.search(pattern, name)), default)
