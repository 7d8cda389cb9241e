# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of state and actions: LeRobot's and openpi's formulas, which differ in epsilon."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Mode = Literal["identity", "mean_std", "min_max", "quantiles", "quantile10"]
Formula = Literal["lerobot", "openpi"]

# the two statistics that each mode reads: centre and width, or low and high
STATISTICS: dict[Mode, tuple[str, str]] = {
    "mean_std": ("mean", "std"),
    "min_max": ("min", "max"),
    "quantiles": ("q01", "q99"),
    "quantile10": ("q10", "q90"),
}
EPS = {"lerobot": 1e-8, "openpi": 1e-6}


@dataclass(frozen=True)
class Transform:
    """One feature's way into the model and back.

    mode:    'mean_std': (x − mean) / std; the others map [low, high] to [-1, 1]; 'identity' changes
    nothing.
    a, b:    (dims,) float64: mean and std, or low and high, in policy units.
    formula: whose epsilon. LeRobot: added to std going in only, and in place of a width of 0.
             openpi: added to std and to the width, both ways.

    Both ways work on the last axis and compute in the dtype of what they are given, as the
    references do. With openpi's formula a vector shorter than the statistics is allowed, and going
    out also a longer one: its further dimensions pass unchanged but for the epsilon, exactly as
    there.
    """

    mode: Mode = "identity"
    a: np.ndarray | None = None
    b: np.ndarray | None = None
    formula: Formula = "lerobot"
    eps: float = EPS["lerobot"]

    @property
    def dims(self) -> int | None:
        """Dimensions that the statistics are for; None: any."""
        return None if self.a is None else len(self.a)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Policy units -> normalised."""
        if self.mode == "identity":
            return x.copy()
        dims = x.shape[-1]
        if dims > len(self.a) or (dims < len(self.a) and self.formula == "lerobot"):
            raise ValueError(f"has {dims} dimensions, the statistics are for {len(self.a)}")
        a, b, eps = self._numbers(x.dtype)
        a, b = a[:dims], b[:dims]
        if self.mode == "mean_std":
            return (x - a) / (b + eps)
        if self.formula == "openpi":
            return (x - a) / self._width(a, b, eps) * 2 - 1
        return 2 * (x - a) / self._width(a, b, eps) - 1

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Normalised -> policy units."""
        if self.mode == "identity":
            return y.copy()
        a, b, eps = self._numbers(y.dtype)
        dims = y.shape[-1]
        a, b = a[:dims], b[:dims]
        y, rest = y[..., : len(a)], y[..., len(a) :]
        if self.mode == "mean_std":
            if self.formula == "openpi":
                b, rest = b + eps, rest * (1 + eps)
            x = y * b + a
        elif self.mode == "min_max" or self.formula == "openpi":
            x = (y + 1) / 2 * self._width(a, b, eps) + a
        else:
            x = (y + 1) * self._width(a, b, eps) / 2 + a
        return np.concatenate([x, rest], axis=-1) if rest.shape[-1] else x

    def _numbers(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.floating]:
        return self.a.astype(dtype, copy=False), self.b.astype(dtype, copy=False), dtype.type(self.eps)

    def _width(self, low: np.ndarray, high: np.ndarray, eps: np.floating) -> np.ndarray:
        width = high - low
        return width + eps if self.formula == "openpi" else np.where(width == 0, eps, width)


@dataclass(frozen=True)
class Normalization:
    """How state and actions enter and leave the model; both identity without statistics."""

    state: Transform = field(default_factory=Transform)
    action: Transform = field(default_factory=Transform)

    @property
    def is_identity(self) -> bool:
        return self.state.mode == self.action.mode == "identity"
