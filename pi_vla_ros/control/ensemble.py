# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Temporal ensembling: at each moment the weighted mean of what all the last chunks say about it.

The weights are those of ACT (arXiv 2304.13705): exp(-decay * i) for the chunk i places after the oldest, so a small
decay takes a change of mind in slowly. A chunk's weight fades over its last part: its end is no step in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FADE = 0.2  # share of a chunk over which its weight falls to zero
MOST = 32  # chunks


@dataclass(frozen=True)
class Opinion:
    """What one chunk says: positions and rates (ticks, joints) from tick `first` on; from tick `end` on it rests."""

    first: int
    end: int
    positions: np.ndarray
    rates: np.ndarray


def mean(
    opinions: tuple[Opinion, ...], first: int, count: int, step: float, decay: float
) -> tuple[tuple[Opinion, ...], np.ndarray, np.ndarray]:
    """opinions: oldest first; the last one covers `count` ticks of `step` s from `first` on, and does not fade.

    Returns those that still have a say, and their mean positions and its rates, each (count, joints).
    """
    alive = tuple(o for o in opinions[:-1] if o.end > first)[1 - MOST :] + opinions[-1:]
    ticks = np.arange(first, first + count)
    weights, slopes = np.zeros((count, 1)), np.zeros((count, 1))
    positions, rates = np.zeros((2, count, opinions[-1].positions.shape[1]))
    for age, opinion in enumerate(alive):
        weight, slope = np.ones((count, 1)), np.zeros((count, 1))
        if opinion is not alive[-1]:
            length = FADE * max(opinion.end - opinion.first, 1) * step  # s
            left = ((opinion.end - ticks) * step / length)[:, None]
            weight, slope = np.clip(left, 0.0, 1.0), np.where((left > 0) & (left < 1), -1 / length, 0.0)
        weight, slope = weight * np.exp(-decay * age), slope * np.exp(-decay * age)
        at = np.clip(ticks - opinion.first, 0, len(opinion.positions) - 1)
        positions += weight * opinion.positions[at]
        rates += weight * opinion.rates[at] + slope * opinion.positions[at]
        weights, slopes = weights + weight, slopes + slope
    positions /= weights
    return alive, positions, (rates - slopes * positions) / weights
