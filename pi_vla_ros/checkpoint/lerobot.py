# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LeRobot's folders (0.4 to current): config.json, model.safetensors, processor pipelines, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint import pipeline as steps
from pi_vla_ros.checkpoint.files import read_json
from pi_vla_ros.checkpoint.find import find_tokenizer_of
from pi_vla_ros.checkpoint.pipeline import Step, check_order, read_pipeline, rename_map
from pi_vla_ros.checkpoint.safetensors import find_headers
from pi_vla_ros.checkpoint.settings import KEY, Settings, read_settings
from pi_vla_ros.checkpoint.shapes import find_geometry
from pi_vla_ros.checkpoint.stats import make_transform
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError
from pi_vla_ros.checkpoint.weights import check_weights, model_of, stored_weights
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.pi import MAX_PERIOD, MIN_PERIOD
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
# what these must be, because the model here is fixed to it
_FIXED = {"min_period": MIN_PERIOD, "max_period": MAX_PERIOD, "n_obs_steps": 1}
_REFUSED = {
    "use_visual_memory": "a π0.5 with visual memory is another model",
    "use_proprioceptive_memory": "a π0.5 with proprioceptive memory has weights that this one does not",
    "use_peft": "the weights are an adapter; merge it into its base model first",
}


def is_lerobot(folder: Path) -> bool:
    """LeRobot's config.json says the type of the policy; openpi's does not."""
    file = folder / "config.json"
    return file.is_file() and "type" in read_json(file)


def load_lerobot(folder: Path, more: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a LeRobot folder; `more` are settings on top of those in its config.json."""
    file = folder / "config.json"
    config = read_json(file)
    _check_config(file, config, folder)
    settings = read_settings(config.get(KEY) or {}, f"{file}: {KEY}", more)
    pre, post = read_pipeline(folder / steps.PRE), read_pipeline(folder / steps.POST)
    check_order(pre, post)

    weights = stored_weights(find_headers(folder), folder, config["type"])
    shapes = weights.shapes()
    model = model_of(shapes, folder)
    if model != config["type"]:
        raise CheckpointError(f"{file}: type: is '{config['type']}', the tensors are those of '{model}'")
    tokenize = pre[steps.TOKENIZE].config if steps.TOKENIZE in pre else {}
    sizes = {
        "chunk": _count(config, "chunk_size", file),
        "prompt_len": _count(tokenize, "max_length", file) or _count(config, "tokenizer_max_length", file),
    }
    variants = (config.get("paligemma_variant"), config.get("action_expert_variant"))
    geometry, source = find_geometry(shapes, model, settings.geometry, sizes, folder, variants)
    check_weights(weights, geometry, folder)

    inputs, outputs = (_features(config, key, file) for key in ("input_features", "output_features"))
    state_dim = settings.state_dim or _dim(inputs, STATE, file, geometry.action_dim)
    action_dim = settings.action_dim or _dim(outputs, ACTION, file, geometry.action_dim)
    names = _action_names(config, pre, settings)
    normalization = _normalization(pre, post, config, settings, state_dim, action_dim)
    padded = state_dim == action_dim == geometry.action_dim
    style, notes = _prompt_style(config, pre, settings, geometry.model, state_dim)
    return Checkpoint(
        path=folder,
        format="lerobot",
        geometry=geometry,
        geometry_source=source,
        cameras=settings.cameras or _cameras(config, inputs, file),
        state_dim=state_dim,
        action_dim=action_dim,
        action_names=names,
        steps=settings.steps or _count(config, "num_inference_steps", file) or STEPS,
        normalization=normalization,
        prompt_style=style,
        relative=_relative(pre, post, settings, names, state_dim, action_dim),
        resize=settings.resize or ("lerobot04" if _is_old(config, pre) else "lerobot"),
        tokenizer=find_tokenizer_of(folder, settings.tokenizer, tokenize.get("tokenizer_name")),
        weights=weights,
        rename={a.removeprefix(IMAGES): b.removeprefix(IMAGES) for a, b in rename_map(pre).items()},
        constant_dims=settings.constant_dims,
        open_dims=padded and normalization == Normalization(),
        notes=notes,
    )


def _check_config(file: Path, config: Mapping[str, Any], folder: Path) -> None:
    if config["type"] not in ("pi0", "pi05"):
        raise CheckpointError(f"{file}: type: is a '{config['type']}' policy; allowed: pi0, pi05")
    for key, why in _REFUSED.items():
        if config.get(key):
            raise CheckpointError(f"{file}: {key}: is set: {why}")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder / 'adapter_config.json'}: {_REFUSED['use_peft']}")
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{file}: {key}: is {config[key]}; allowed: {value}")


def _count(config: Mapping[str, Any], key: str, file: Path) -> int | None:
    value = config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise CheckpointError(f"{file}: {key}: must be a positive whole number, is {value!r}")
    return value


def _features(config: Mapping[str, Any], key: str, file: Path) -> dict[str, dict]:
    features = config.get(key) or {}
    good = isinstance(features, dict) and all(
        isinstance(f, dict) and isinstance(f.get("type"), str) and isinstance(f.get("shape"), list)
        for f in features.values()
    )
    if not good:
        raise CheckpointError(f"{file}: {key}: must map names to {{'type', 'shape'}}")
    return features


def _dim(features: Mapping[str, dict], name: str, file: Path, padded: int) -> int:
    """Dimensions of a vector feature; without it, LeRobot takes the padded ones."""
    shape = features[name]["shape"] if name in features else [padded]
    if len(shape) != 1 or not isinstance(shape[0], int) or not 1 <= shape[0] <= padded:
        raise CheckpointError(f"{file}: {name}: shape must be [1 to {padded}], is {shape}")
    return shape[0]


def _cameras(config: Mapping[str, Any], inputs: Mapping[str, dict], file: Path) -> tuple[str, ...]:
    """The images in the order of input_features, then the empty ones that LeRobot adds."""
    if config.get("empty_cameras"):
        _count(config, "empty_cameras", file)
    slots = [name.removeprefix(IMAGES) for name, f in inputs.items() if f["type"] == "VISUAL"]
    slots += [f"empty_camera_{i}" for i in range(config.get("empty_cameras") or 0)]
    if not slots:
        raise CheckpointError(f"{file}: input_features: has no camera (type VISUAL)")
    return tuple(dict.fromkeys(slots))


def _action_names(
    config: Mapping[str, Any], pre: Mapping[str, Step], settings: Settings
) -> tuple[str, ...] | None:
    step = pre[steps.RELATIVE].config if steps.RELATIVE in pre else {}
    names = settings.action_names or step.get("action_names") or config.get("action_feature_names")
    return tuple(map(str, names)) if names else None


def _normalization(pre, post, config, settings: Settings, state_dim: int, action_dim: int) -> Normalization:
    """State from the preprocessor, actions from the postprocessor, each as its own step says."""
    into, out = pre.get(steps.NORMALIZE), post.get(steps.UNNORMALIZE, pre.get(steps.NORMALIZE))
    if into is not None:
        for name, feature in (into.config.get("features") or {}).items():
            if (
                feature.get("type") == "VISUAL"
                and name in into.stats
                and _mode(into, config, "VISUAL") != "identity"
            ):
                raise CheckpointError(f"{into.where}: normalises the images ('{name}'); allowed: IDENTITY")
    return Normalization(
        state=_transform(into, config, settings, STATE, "STATE", state_dim),
        action=_transform(out, config, settings, ACTION, "ACTION", action_dim),
    )


def _transform(step: Step | None, config, settings: Settings, name: str, kind: str, dims: int) -> Transform:
    """As LeRobot: a feature without statistics, or one that is not listed, stays as it is."""
    if step is None or name not in step.stats:
        return Transform()
    listed, keys = step.config.get("features"), step.config.get("normalize_observation_keys")
    if kind == "STATE" and ((listed and name not in listed) or (keys is not None and name not in keys)):
        return Transform()
    return make_transform(
        _mode(step, config, kind),
        step.stats[name],
        f"{step.where}: {name}",
        dims,
        settings.formula or "lerobot",
        step.config.get("eps"),
        settings.constant_dims,
    )


def _mode(step: Step, config: Mapping[str, Any], kind: str) -> str:
    modes = step.config.get("norm_map") or config.get("normalization_mapping") or {}
    mode = modes.get(kind, "IDENTITY")
    if mode not in MODES:
        raise CheckpointError(f"{step.where}: norm_map: {kind}: is '{mode}'; allowed: {', '.join(MODES)}")
    return MODES[mode]


def _is_old(config: Mapping[str, Any], pre: Mapping[str, Step]) -> bool:
    """LeRobot 0.4 (or 0.5.0, which cannot be told from it): it knew no relative actions."""
    return bool(pre) and steps.RELATIVE not in pre and "use_relative_actions" not in config


def _prompt_style(
    config, pre, settings: Settings, model: str, state_dim: int
) -> tuple[PromptStyle, tuple[str, ...]]:
    if steps.STATE_PROMPT in pre:
        kind = "pi05"
    elif steps.NEWLINE in pre:
        kind = "pi0_raw"
    elif not pre:
        kind = "pi05" if model == "pi05" else "pi0_raw"
    else:
        raise CheckpointError(
            f"{steps.PRE}: has no step that writes the prompt: {steps.STATE_PROMPT} or {steps.NEWLINE}"
        )
    kind = settings.prompt or kind
    padded = settings.prompt_state_dims
    notes = ()
    if padded is None and kind == "pi05" and _is_old(config, pre):
        padded = pre[steps.STATE_PROMPT].config.get("max_state_dim") or config.get("max_state_dim") or 32
        if padded > state_dim:
            notes = (
                f"written by LeRobot 0.4 or 0.5.0: taken for 0.4, which pads the state in the prompt to {padded} "
                f"and images with -3; for 0.5.0 set '{KEY}': {{'prompt_state_dims': 0, 'resize': 'lerobot'}}",
            )
    return PromptStyle(kind, padded or None), notes


def _relative(
    pre, post, settings: Settings, names, state_dim: int, action_dim: int
) -> RelativeActions | None:
    if settings.relative is not None:
        mask = settings.relative
    else:
        into, out = pre.get(steps.RELATIVE), post.get(steps.ABSOLUTE)
        on = bool(into and into.config.get("enabled"))
        if on != bool(out and out.config.get("enabled")):
            step = into or out
            raise CheckpointError(f"{step.where}: relative and absolute actions must be enabled together")
        mask = mask_excluding(names, into.config.get("exclude_joints") or [], action_dim) if on else ()
    return checked_relative(mask, state_dim, action_dim)


def checked_relative(mask: tuple[bool, ...], state_dim: int, action_dim: int) -> RelativeActions | None:
    """None for a mask without any relative dimension; refuses one that asks for a state that is not there."""
    if not any(mask):
        return None
    if len(mask) > action_dim or any(mask[state_dim:]):
        raise CheckpointError(
            f"relative: mask {list(mask)} does not fit {state_dim} state and {action_dim} action dims"
        )
    return RelativeActions(tuple(mask))
