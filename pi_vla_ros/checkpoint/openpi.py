# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""openpi's folders: PyTorch (model.safetensors), and what the JAX ones share with them: assets, defaults.

openpi keeps the rest in its code (`TrainConfig`): cameras, chunk, relative actions, whether π0.5
reads the state. What is not the default there must be said in our settings; every default that was
taken is in `Checkpoint.notes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pi_vla_ros.checkpoint.files import optional, positive, read_json
from pi_vla_ros.checkpoint.find import find_tokenizer_of
from pi_vla_ros.checkpoint.lerobot_steps import checked_relative
from pi_vla_ros.checkpoint.safetensors import find_headers
from pi_vla_ros.checkpoint.settings import KEY, Settings, checked_delay, read_settings
from pi_vla_ros.checkpoint.shapes import find_geometry
from pi_vla_ros.checkpoint.stats import make_transform
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError, Weights
from pi_vla_ros.checkpoint.weights import check_weights, model_of, stored_weights
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.processing.normalize import Normalization
from pi_vla_ros.processing.prompt import PromptStyle
from pi_vla_ros.robot import SLOTS


def is_openpi(folder: Path) -> bool:
    """Weights in safetensors, and a config.json without LeRobot's 'type', or none."""
    return any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))


def load_openpi(folder: Path, more: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read an openpi PyTorch folder; `more` are settings on top of those in its pi_vla_ros.json."""
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    weights = stored_weights(find_headers(folder), folder)
    return openpi_checkpoint(folder, "openpi", weights, read_settings(folder, config, more), config)


def openpi_checkpoint(
    folder: Path,
    format: str,
    weights: Weights,
    settings: Settings,
    config: Mapping[str, Any],
    told: Mapping[str, int] | None = None,
) -> Checkpoint:
    """What both of openpi's formats become. told: sizes that the format tells beyond the canonical shapes."""
    where = folder / "config.json"
    shapes = weights.shapes()
    model = settings.geometry.model or model_of(shapes, folder)
    sizes = {"chunk": positive(config, "action_horizon", where)}
    variants = tuple(optional(config, f"{part}_variant", str, where) for part in ("paligemma", "action_expert"))
    geometry, source = find_geometry(shapes, model, settings.geometry, sizes, folder, variants, told)
    check_weights(weights, geometry, folder)

    stats, asset = _find_stats(folder, settings)
    state, action = (_without_padding(stats, key, geometry.action_dim) for key in ("state", "actions"))
    is_open = settings.action_dim is None and (action is None or _length(stats["actions"]) == geometry.action_dim)
    state_dim = settings.state_dim or (_length(state) if state else geometry.action_dim)
    action_dim = settings.action_dim or (_length(action) if action else geometry.action_dim)
    if max(state_dim, action_dim) > geometry.action_dim:
        raise CheckpointError(f"{asset}: has statistics for more than {geometry.action_dim} dimensions")
    mode = settings.normalization or ("mean_std" if model == "pi0" else "quantiles")
    formula, accept = settings.formula or "openpi", settings.constant_dims
    transforms = Normalization()
    if stats:
        transforms = Normalization(
            make_transform(mode, state, f"{asset}: norm_stats.state", None, formula, None, accept),
            make_transform(mode, action, f"{asset}: norm_stats.actions", None, formula, None, accept),
        )
    return Checkpoint(
        path=folder,
        format=format,
        geometry=geometry,
        geometry_source=source,
        cameras=settings.cameras or SLOTS,
        state_dim=state_dim,
        action_dim=action_dim,
        action_names=settings.action_names,
        steps=settings.steps or STEPS,
        normalization=transforms,
        prompt_style=PromptStyle(settings.prompt or model, settings.prompt_state_dims or None),
        relative=checked_relative(settings.relative or (), state_dim, action_dim, folder),
        resize=settings.resize or "pil",
        tokenizer=find_tokenizer_of(folder, settings.tokenizer),
        weights=weights,
        constant_dims=accept,
        open_dims=is_open,
        rtc_max_delay=checked_delay(settings.rtc_training_max_delay or 0, geometry, folder),
        notes=_notes(settings, source, model, asset),
    )


def _find_stats(folder: Path, settings: Settings) -> tuple[dict[str, dict], Path | None]:
    """The chosen asset's statistics ('state', 'actions') and their file; empty without assets."""
    assets = folder / "assets"
    files = {f.parent.relative_to(assets).as_posix(): f for f in sorted(assets.rglob("norm_stats.json"))}
    chosen = settings.assets or (next(iter(files)) if len(files) == 1 else None)
    names = ", ".join(files) or "none"
    if chosen is not None and chosen not in files:
        raise CheckpointError(f"{assets}: has no statistics for '{chosen}'; it has {names}")
    if chosen is None and files:
        raise CheckpointError(
            f"{assets}: has statistics for several robots: {names}; choose one with '{KEY}': {{'assets': ...}}"
        )
    if chosen is None:
        return {}, None
    file = files[chosen]
    stats = optional(read_json(file), "norm_stats", dict, file) or {}
    for key in ("state", "actions"):
        if not optional(stats, key, dict, f"{file}: norm_stats"):
            raise CheckpointError(f"{file}: norm_stats.{key}: is missing")
    return stats, file


def _without_padding(stats: Mapping[str, dict], key: str, padded: int) -> dict | None:
    """Statistics without the dimensions that only pad them (base models have `padded`, zero at the end)."""
    if not stats:
        return None
    cut = {name: values for name, values in stats[key].items() if isinstance(values, list)}
    if not cut or any(len(values) != padded for values in cut.values()):
        return cut
    try:
        used = np.flatnonzero(np.any([np.asarray(v, np.float64) != 0 for v in cut.values()], axis=0))
    except (TypeError, ValueError):
        return cut  # refused where it is used
    return {name: values[: used[-1] + 1 if len(used) else padded] for name, values in cut.items()}


def _length(stats: Mapping[str, Any] | None) -> int:
    return max((len(values) for values in (stats or {}).values() if isinstance(values, list)), default=0)


def _notes(settings: Settings, source: Mapping[str, str], model: str, asset: Path | None) -> tuple[str, ...]:
    notes = []
    if asset is None:
        notes.append("no assets: state and actions are not normalised")
    if settings.cameras is None:
        notes.append(f"cameras: openpi's {', '.join(SLOTS)}")
    if source["chunk"] == "default":
        notes.append("chunk: taken to be 50; openpi does not write it down")
    if settings.relative is None:
        notes.append("relative: taken to be none; openpi does not write it down")
    if model == "pi05" and settings.prompt is None:
        notes.append("prompt: taken to have the state; where it was trained without (pi05_libero), say 'pi0'")
    return tuple(notes)
