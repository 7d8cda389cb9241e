# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Before our kernels may drive a robot: do they say, on this GPU and with these weights, what the PyTorch model says?

A kernel that does not run is noticed; one that runs and is wrong is not. So the same question goes to both, once, at
set-up.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.engine.requests import Images, Inputs
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.processing.images import square_images

APART = 5e-2  # relative; two ways of computing in bf16 differ by less than 1e-2
WORDS = 20


class TrialError(RuntimeError):
    """The kernels' answer is not the model's."""


def question(g: Geometry, cameras: int, batch: int) -> tuple[Inputs, Images]:
    """A request of `batch` robots, its images as tensors, and the same images as frames."""
    draw = np.random.default_rng(0)
    size, words = g.vision.image, min(WORDS, g.prompt_len)
    frames = [[draw.integers(0, 256, (size, size, 3), np.uint8) for _ in range(cameras)] for _ in range(batch)]

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal((batch, *shape), np.float32))

    inputs = Inputs(
        square_images(frames, size, "pil"),
        torch.from_numpy(draw.integers(0, g.vocab, (batch, words))),
        torch.full((batch,), words),
        torch.ones(batch, cameras, dtype=torch.bool),
        normal(g.chunk, g.action_dim),
        normal(g.action_dim) if g.model == "pi0" else None,
        None,
    )
    return inputs, frames


def compare(answer: Tensor, expected: Tensor) -> None:
    """Raises TrialError when they are further apart than two ways of rounding."""
    error = float((answer - expected).norm() / expected.norm())
    if not error <= APART:  # NaN is not, either
        raise TrialError(f"their answer is {error:.1%} off the PyTorch model's; at most {APART:.0%} is rounding")
