# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: a chunk that agrees with what is still being executed of the one before.

Guided (arXiv 2506.07339, as LeRobot computes it, with the identity for the network's Jacobian): in every flow step the
velocity is corrected towards the previous chunk, strongly where actions will be executed before the new chunk can
take over, less and less after.

Trained (arXiv 2512.05964, π0.5 only): the actions that will be executed before the new chunk can take over *are* those
of the previous one: they stand at flow time 0 from the start, beside the others at time t. The model was trained so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pi_vla_ros.model.rtc_schedule import strength

MAX_GUIDANCE = 10.0


@dataclass(frozen=True)
class Guidance:
    """target: [B, H, A] the previous chunk in model units, aligned with the new one, 0 where it has ended;
    weights: [B, H], 0 where nothing is asked; most: [B], the largest `strength`."""

    target: Tensor
    weights: Tensor
    most: Tensor


@dataclass(frozen=True)
class Committed:
    """target: [B, H, A] as above; delay: [B] int, how many of a robot's first actions are the target's."""

    target: Tensor
    delay: Tensor

    @property
    def held(self) -> Tensor:
        """[B, H] bool: the actions that are the target's."""
        return torch.arange(self.target.shape[1], device=self.delay.device) < self.delay[:, None]

    def hold(self, x: Tensor) -> Tensor:
        """x [B, H, A] with the committed actions in it."""
        return torch.where(self.held[..., None], self.target, x)

    def times(self, t: float) -> Tensor:
        """Flow time of every action, [B, H]: `t`, and 0 where it is committed."""
        return (~self.held).float() * t


Chunking = Guidance | Committed


def each(rtc: Chunking | None, f: Callable[[Tensor], Tensor]) -> Chunking | None:
    """The same with `f` of every tensor, so on another device, or for some of the robots."""
    return rtc and type(rtc)(**{part.name: f(getattr(rtc, part.name)) for part in fields(rtc)})


def guide(velocity: Tensor, x: Tensor, t: float, guidance: Guidance) -> Tensor:
    """velocity, x: [B, H, A] at flow time t -> the corrected velocity."""
    ending = x - t * velocity
    error = (guidance.target - ending) * guidance.weights[..., None]
    return velocity - guidance.most.clamp(max=strength(t))[:, None, None] * error
