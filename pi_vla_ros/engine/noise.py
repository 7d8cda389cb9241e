# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The noise of requests that bring none.

Drawn on the host by PyTorch's generator, or on the GPU inside the graph (kernels/noise.py): each repeats itself for
the same seed, and the two differ from each other. An engine draws in one place for its whole life.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """What a request's noise is drawn from.

    seeds: (B,) int64: one a robot, whose noise then depends on nothing else. An int: one for all, each robot has its
           own stream of it. None: the engine's sequence goes on.
    scale: of the noise.
    """

    seeds: Tensor | int | None
    scale: float


@dataclass(frozen=True)
class Keys:
    """What kernels/noise.py draws from: keys (B, 4) int64: 1, seed, stream, draw; scale (B,) float32."""

    keys: Tensor
    scale: Tensor


class NoiseSource:
    """The engine's sequence, and what any Draw means. shape: (chunk, action_dim)."""

    def __init__(self, seed: int, shape: tuple[int, int]):
        self._seed, self._shape, self._draws = seed, shape, 0
        self._generator = _seeded(seed)

    def on_host(self, batch: int, draw: Draw) -> Tensor:
        """(B, chunk, action_dim) float32."""
        if isinstance(draw.seeds, Tensor):
            rows = [torch.randn(self._shape, generator=_seeded(seed)) for seed in draw.seeds.tolist()]
            return torch.stack(rows) * draw.scale
        generator = self._generator if draw.seeds is None else _seeded(draw.seeds)
        return torch.randn(batch, *self._shape, generator=generator) * draw.scale

    def on_gpu(self, batch: int, draw: Draw) -> Keys:
        """A request's own seed is draw 0 of it, the engine's sequence has the draws from 1 on."""
        keys = np.ones((batch, 4), np.int64)  # NumPy: a PyTorch operation takes several times as long to begin
        if draw.seeds is None:
            self._draws += 1
        each = isinstance(draw.seeds, Tensor)
        keys[:, 1] = self._seed if draw.seeds is None else draw.seeds.numpy(force=True) if each else draw.seeds
        keys[:, 2] = 0 if each else np.arange(batch)
        keys[:, 3] = self._draws if draw.seeds is None else 0
        return Keys(torch.from_numpy(keys), torch.from_numpy(np.full(batch, draw.scale, np.float32)))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
