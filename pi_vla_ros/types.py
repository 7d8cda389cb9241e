# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The values that travel between the rooms: what is seen, what the policy says, what the arm does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant, in robot units.

    images: slot -> (height, width, 3) uint8 RGB. A slot that is absent is a camera that is not there (masked).
    state:  (n,) float64, rad or m, in the order of `RobotConfig.measured_names`, interpolated to `stamp`.
    prompt: the task, one sentence.
    stamp:  s, ROS clock: the time of the newest image of the set. Action 0 of the answer belongs to it.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    prompt: str
    stamp: float


@dataclass(frozen=True)
class ActionChunk:
    """What the policy said, in robot units, before stitching and limits.

    actions:       (horizon, joints) float64; positions in rad or m, or velocities where the robot file says so.
    stamp:         s, ROS clock: `Observation.stamp`; action i belongs to `stamp + i * dt`.
    dt:            s between two actions.
    model_actions: (horizon, model action dims) float32, as the model gave them (normalised); what real-time
                   chunking feeds back.
    stage_ms:      where the time went, by stage name.
    """

    actions: np.ndarray
    stamp: float
    dt: float
    model_actions: np.ndarray | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """A motion on a uniform grid of ticks; cubic Hermite between them, at rest after the last.

    Knot k stands at time `(first + k) * step`. The grid is absolute, so two trajectories with the same step share
    their knots and one can be continued by another without resampling. This is exactly what a
    joint_trajectory_controller makes of positions and velocities.

    first:      tick of knot 0 (time / step), ROS clock.
    step:       s between two knots.
    positions:  (knots, joints) rad or m.
    velocities: (knots, joints) rad/s or m/s; the last row is zero: every trajectory ends at rest.
    """

    first: int
    step: float
    positions: np.ndarray
    velocities: np.ndarray

    @property
    def last(self) -> int:
        """Tick of the last knot: from there on the arm rests."""
        return self.first + len(self.positions) - 1

    @property
    def start(self) -> float:
        """Time of knot 0, s."""
        return self.first * self.step

    @property
    def end(self) -> float:
        """Time of the last knot, s."""
        return self.last * self.step


def seconds(stamp: Any) -> float:
    """builtin_interfaces/Time -> s. One sum for all: the same stamp gives the same float."""
    return stamp.sec + 1e-9 * stamp.nanosec
