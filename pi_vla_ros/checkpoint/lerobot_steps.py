# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What LeRobot's pipelines, config and our own settings together do to prompt, state and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint import pipeline as steps
from pi_vla_ros.checkpoint.files import optional, positive, words
from pi_vla_ros.checkpoint.pipeline import Step
from pi_vla_ros.checkpoint.settings import KEY, Settings
from pi_vla_ros.checkpoint.stats import make_transform
from pi_vla_ros.checkpoint.types import CheckpointError
from pi_vla_ros.processing.normalize import Normalization, Transform
from pi_vla_ros.processing.prompt import PromptStyle
from pi_vla_ros.processing.relative import RelativeActions, mask_excluding

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
MODES = {
    "IDENTITY": "identity",
    "MEAN_STD": "mean_std",
    "MIN_MAX": "min_max",
    "QUANTILES": "quantiles",
    "QUANTILE10": "quantile10",
}


@dataclass(frozen=True)
class LeRobotSteps:
    """The steps before and after the model, and config.json and settings for what they leave open."""

    folder: Path
    config: Mapping[str, Any]
    settings: Settings
    pre: Mapping[str, Step]
    post: Mapping[str, Step]

    @property
    def is_old(self) -> bool:
        """LeRobot 0.4 (or 0.5.0, which cannot be told from it): it knew no relative actions."""
        return bool(self.pre) and steps.RELATIVE not in self.pre and "use_relative_actions" not in self.config

    def rename(self) -> dict[str, str]:
        """Camera names as the data set had them -> slots."""
        step = self.pre.get(steps.RENAME)
        names = (optional(step.config, "rename_map", dict, step.where) or {}) if step else {}
        if not all(isinstance(new, str) for new in names.values()):
            raise CheckpointError(f"{step.where}: rename_map: must map names to names, is {names!r}")
        return {old.removeprefix(IMAGES): new.removeprefix(IMAGES) for old, new in names.items()}

    def action_names(self) -> tuple[str, ...] | None:
        step = self.pre.get(steps.RELATIVE)
        named = words(step.config, "action_names", step.where) if step else None
        return self.settings.action_names or named or words(self.config, "action_feature_names", self.folder)

    def normalization(self, state_dim: int, action_dim: int) -> Normalization:
        """State from the preprocessor, actions from the postprocessor, each as its own step says."""
        into = self.pre.get(steps.NORMALIZE)
        out = self.post.get(steps.UNNORMALIZE, into)
        for name, kind in self._features(into).items():
            if kind == "VISUAL" and name in into.stats and self._mode(into, "VISUAL") != "identity":
                raise CheckpointError(f"{into.where}: normalises the images ('{name}'); allowed: IDENTITY")
        return Normalization(
            state=self._transform(into, STATE, "STATE", state_dim),
            action=self._transform(out, ACTION, "ACTION", action_dim),
        )

    def _transform(self, step: Step | None, name: str, kind: str, dims: int) -> Transform:
        """As LeRobot: a feature without statistics, or one that is not listed, stays as it is."""
        if step is None or name not in step.stats:
            return Transform()
        listed = self._features(step)
        only = words(step.config, "normalize_observation_keys", step.where)
        if kind == "STATE" and ((listed and name not in listed) or (only is not None and name not in only)):
            return Transform()
        return make_transform(
            self._mode(step, kind),
            step.stats[name],
            f"{step.where}: {name}",
            dims,
            self.settings.formula or "lerobot",
            optional(step.config, "eps", float, step.where),
            self.settings.constant_dims,
        )

    def _features(self, step: Step | None) -> dict[str, str]:
        """The features that a normaliser lists: name -> type."""
        features = (optional(step.config, "features", dict, step.where) or {}) if step else {}
        if not all(isinstance(feature, dict) for feature in features.values()):
            raise CheckpointError(f"{step.where}: features: must map names to {{'type', 'shape'}}")
        return {name: feature.get("type") for name, feature in features.items()}

    def _mode(self, step: Step, kind: str) -> str:
        modes = optional(step.config, "norm_map", dict, step.where)
        modes = modes or optional(self.config, "normalization_mapping", dict, self.folder) or {}
        mode = modes.get(kind, "IDENTITY")
        if not isinstance(mode, str) or mode not in MODES:
            raise CheckpointError(f"{step.where}: norm_map: {kind}: is {mode!r}; allowed: {', '.join(MODES)}")
        return MODES[mode]

    def prompt_style(self, model: str, state_dim: int) -> tuple[PromptStyle, tuple[str, ...]]:
        """How the prompt is written, and what a user should know about it."""
        if self.settings.prompt:
            kind = self.settings.prompt
        elif steps.STATE_PROMPT in self.pre:
            kind = "pi05"
        elif steps.NEWLINE in self.pre:
            kind = "pi0_raw"
        elif not self.pre:
            kind = "pi05" if model == "pi05" else "pi0_raw"
        else:
            wanted = f"{steps.STATE_PROMPT} or {steps.NEWLINE}"
            raise CheckpointError(f"{self.folder / steps.PRE}: steps: none writes the prompt: {wanted}")
        if kind != "pi05":
            return PromptStyle(kind), ()
        if self.settings.prompt_state_dims is not None or not self.is_old:
            return PromptStyle(kind, self.settings.prompt_state_dims or None), ()
        padded = positive(self.config, "max_state_dim", self.folder) or 32
        if padded <= state_dim:
            return PromptStyle(kind), ()
        note = (
            "written by LeRobot 0.4 or 0.5.0: taken for 0.4, which pads the state in the prompt to "
            f"{padded} and images with -3; for 0.5.0 set "
            f"'{KEY}': {{'prompt_state_dims': 0, 'resize': 'lerobot'}}"
        )
        return PromptStyle(kind, padded), (note,)

    def relative(self, names: tuple[str, ...] | None, state_dim: int, action_dim: int) -> RelativeActions | None:
        """Which actions are offsets from the state; None: none."""
        if self.settings.relative is not None:
            return checked_relative(self.settings.relative, state_dim, action_dim, self.folder)
        into, out = self.pre.get(steps.RELATIVE), self.post.get(steps.ABSOLUTE)
        on, back = (bool(step and optional(step.config, "enabled", bool, step.where)) for step in (into, out))
        if on != back:
            raise CheckpointError(f"{(into or out).where}: relative and absolute actions must be enabled together")
        if not on:
            return None
        exclude = words(into.config, "exclude_joints", into.where) or ()
        return checked_relative(mask_excluding(names, exclude, action_dim), state_dim, action_dim, self.folder)


def checked_relative(mask: tuple[bool, ...], state_dim: int, action_dim: int, where: Path) -> RelativeActions | None:
    """None for a mask without any relative dimension; refuses one that asks for a state that is not there."""
    if not any(mask):
        return None
    if len(mask) > action_dim or any(mask[state_dim:]):
        raise CheckpointError(
            f"{where}: relative: mask {list(mask)} does not fit {state_dim} state, {action_dim} action dims"
        )
    return RelativeActions(tuple(mask))
