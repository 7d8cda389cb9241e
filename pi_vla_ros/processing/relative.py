# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Relative actions: some models answer with offsets from the present state instead of targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RelativeActions:
    """Which action dimensions are offsets from the same dimension of the state (True) and which are targets.

    The mask may be shorter than the action; further dimensions are targets. The state is the raw
    one, in policy units, before normalisation.
    """

    mask: tuple[bool, ...]

    def to_relative(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """actions (..., dims) targets, state (n,) -> offsets where the mask says so."""
        return actions - self._offset(actions, state)

    def to_absolute(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The inverse of `to_relative` for the same state."""
        return actions + self._offset(actions, state)

    def _offset(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        offset = np.zeros(actions.shape[-1], actions.dtype)
        for i, relative in enumerate(self.mask[: len(offset)]):
            if relative:
                offset[i] = state[i]
        return offset


def mask_from_counts(*counts: int) -> tuple[bool, ...]:
    """openpi's short form: (6, -1) is six relative dimensions, then one absolute."""
    return tuple(count > 0 for count in counts for _ in range(abs(count)))


def mask_excluding(names: Sequence[str] | None, exclude: Sequence[str], dims: int) -> tuple[bool, ...]:
    """LeRobot's rule: relative unless an excluded word occurs in the name, whatever its case.

    Without names nothing can be excluded: all dimensions are relative, as in LeRobot.
    """
    words = [str(word).lower() for word in exclude if word]
    named = [not any(word in str(name).lower() for word in words) for name in (names or ())[:dims]]
    return tuple(named + [True] * (dims - len(named)))
