# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with random weights for a robot: its dimensions, cameras and joint limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pi_vla_ros.checkpoint.random import random_tensors
from pi_vla_ros.checkpoint.types import Checkpoint
from pi_vla_ros.checkpoint.weights import parameter_shapes
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.processing.normalize import Normalization, Transform
from pi_vla_ros.processing.prompt import PromptStyle
from pi_vla_ros.robot import TURN, Joint, Observed, RobotConfig

# actions of ±1 (normalised) are this part of a joint's range away from home; random ones stay
# within about ±2.3
REACH, FURTHEST = 0.07, 2.5


@dataclass(frozen=True)
class RandomWeights:
    geometry: Geometry
    seed: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return parameter_shapes(self.geometry)

    def dtypes(self) -> dict[str, str]:
        return dict.fromkeys(self.shapes(), "float32")

    def read(self) -> Iterator[tuple[str, Tensor]]:
        return random_tensors(self.geometry, self.seed)


def random_checkpoint(robot: RobotConfig, geometry: Geometry, seed: int, tokenizer: Path | None) -> Checkpoint:
    """A checkpoint that fits `robot`: its policy units, statistics from its limits."""
    pi05 = geometry.model == "pi05"
    ranges = {joint.name: joint.position for joint in robot.joints}
    state = np.array([_state_statistics(e, ranges.get(e.name, TURN)) for e in robot.state_entries]).T
    action = np.array([_action_statistics(joint) for joint in robot.joints]).T
    if pi05:
        transforms = (Transform("quantiles", _fp32(s[0] - s[1]), _fp32(s[0] + s[1])) for s in (state, action))
    else:
        transforms = (Transform("mean_std", *_fp32(s)) for s in (state, action))
    return Checkpoint(
        path=Path(f"random weights, seed {seed}"),
        format="random",
        geometry=geometry,
        geometry_source={},
        cameras=tuple(robot.cameras),
        state_dim=len(robot.state_entries),
        action_dim=len(robot.joints),
        action_names=tuple(robot.joint_names),
        steps=STEPS,
        normalization=Normalization(*transforms),
        prompt_style=PromptStyle("pi05" if pi05 else "pi0_raw"),
        relative=None,
        resize="lerobot",
        tokenizer=tokenizer,
        weights=RandomWeights(geometry, seed),
    )


def _state_statistics(entry: Joint | Observed, position: tuple[float, float]) -> tuple[float, float]:
    """(centre, half width) of an entry of the state, in policy units."""
    low, high = position
    return _affine((low + high) / 2, (high - low) / 2, entry.state.scale, entry.state.offset)


def _action_statistics(joint: Joint) -> tuple[float, float]:
    """(centre, half width) of a joint's action, in policy units."""
    low, high = joint.position
    if joint.action.kind == "velocity":
        centre, half = 0.0, joint.velocity / FURTHEST
    else:
        half = REACH * (high - low)
        home = (low + high) / 2 if joint.home is None else joint.home
        centre = min(max(home, low + FURTHEST * half), high - FURTHEST * half)
    # the robot computes target = scale * action + offset
    return _affine(centre, half, 1 / joint.action.scale, -joint.action.offset / joint.action.scale)


def _affine(centre: float, half: float, scale: float, offset: float) -> tuple[float, float]:
    return scale * centre + offset, abs(scale) * half


def _fp32(values: np.ndarray) -> np.ndarray:
    """Rounded to what LeRobot's statistics can hold."""
    return values.astype(np.float32).astype(np.float64)
