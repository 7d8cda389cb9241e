# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LeRobot's folders (0.4 to current): config.json, model.safetensors, processor pipelines, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint import pipeline as steps
from pi_vla_ros.checkpoint.files import optional, positive, read_json
from pi_vla_ros.checkpoint.find import find_tokenizer_of
from pi_vla_ros.checkpoint.lerobot_steps import ACTION, IMAGES, STATE, LeRobotSteps
from pi_vla_ros.checkpoint.pipeline import check_order, read_pipeline
from pi_vla_ros.checkpoint.safetensors import find_headers
from pi_vla_ros.checkpoint.settings import Settings, checked_delay, read_settings
from pi_vla_ros.checkpoint.shapes import find_geometry
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError
from pi_vla_ros.checkpoint.weights import check_weights, model_of, stored_weights
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.pi import MAX_PERIOD, MIN_PERIOD

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
    settings = read_settings(folder, config, more)
    pre, post = read_pipeline(folder / steps.PRE), read_pipeline(folder / steps.POST)
    check_order(pre, post)

    weights = stored_weights(find_headers(folder), folder, config["type"])
    shapes = weights.shapes()
    model = model_of(shapes, folder)
    if model != config["type"]:
        raise CheckpointError(f"{file}: type: is '{config['type']}', the tensors are those of '{model}'")
    tokenize = pre[steps.TOKENIZE].config if steps.TOKENIZE in pre else {}
    sizes = {
        "chunk": positive(config, "chunk_size", file),
        "prompt_len": positive(tokenize, "max_length", folder / steps.PRE)
        or positive(config, "tokenizer_max_length", file),
    }
    variants = tuple(optional(config, f"{part}_variant", str, file) for part in ("paligemma", "action_expert"))
    geometry, source = find_geometry(shapes, model, settings.geometry, sizes, folder, variants)
    check_weights(weights, geometry, folder)

    inputs, outputs = (_features(config, key, file) for key in ("input_features", "output_features"))
    state_dim = settings.state_dim or _dim(inputs, STATE, file, geometry.action_dim)
    action_dim = settings.action_dim or _dim(outputs, ACTION, file, geometry.action_dim)
    process = LeRobotSteps(folder, config, settings, pre, post)
    names = process.action_names()
    normalization = process.normalization(state_dim, action_dim)
    is_base = normalization.is_identity and state_dim == action_dim == geometry.action_dim
    style, notes = process.prompt_style(model, state_dim)
    return Checkpoint(
        path=folder,
        format="lerobot",
        geometry=geometry,
        geometry_source=source,
        cameras=settings.cameras or _cameras(config, inputs, file),
        state_dim=state_dim,
        action_dim=action_dim,
        action_names=names,
        steps=settings.steps or positive(config, "num_inference_steps", file) or STEPS,
        normalization=normalization,
        prompt_style=style,
        relative=process.relative(names, state_dim, action_dim),
        resize=settings.resize or ("lerobot04" if process.is_old else "lerobot"),
        tokenizer=find_tokenizer_of(
            folder, settings.tokenizer, optional(tokenize, "tokenizer_name", str, folder / steps.PRE)
        ),
        weights=weights,
        rename=process.rename(),
        constant_dims=settings.constant_dims,
        open_dims=is_base,
        rtc_max_delay=_rtc_max_delay(config, settings, geometry, file),
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


def _rtc_max_delay(config: Mapping[str, Any], settings: Settings, geometry: Geometry, file: Path) -> int:
    delay = settings.rtc_training_max_delay
    if delay is None:
        delay = optional(config, "rtc_training_max_delay", int, file) or 0
    return checked_delay(delay, geometry, file)


def _features(config: Mapping[str, Any], key: str, file: Path) -> dict[str, dict]:
    features = optional(config, key, dict, file) or {}
    for name, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("shape"), list):
            raise CheckpointError(f"{file}: {key}: {name}: must have a type and a shape")
    return features


def _dim(features: Mapping[str, dict], name: str, file: Path, padded: int) -> int:
    """Dimensions of a vector feature; without it, LeRobot takes the padded ones."""
    shape = features[name]["shape"] if name in features else [padded]
    if len(shape) != 1 or not isinstance(shape[0], int) or not 1 <= shape[0] <= padded:
        raise CheckpointError(f"{file}: {name}: shape must be [1 to {padded}], is {shape}")
    return shape[0]


def _cameras(config: Mapping[str, Any], inputs: Mapping[str, dict], file: Path) -> tuple[str, ...]:
    """The images in the order of input_features, then the empty ones that LeRobot adds."""
    slots = [name.removeprefix(IMAGES) for name, f in inputs.items() if f.get("type") == "VISUAL"]
    empty = optional(config, "empty_cameras", int, file) or 0
    if not 0 <= empty <= 16:
        raise CheckpointError(f"{file}: empty_cameras: must be 0 to 16, is {empty}")
    slots += [f"empty_camera_{i}" for i in range(empty)]
    if not slots:
        raise CheckpointError(f"{file}: input_features: has no camera (type VISUAL)")
    return tuple(dict.fromkeys(slots))
