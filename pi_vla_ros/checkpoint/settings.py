# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What no format can say about a checkpoint, said by us.

LeRobot's config.json cannot express a geometry other than the published ones, and openpi writes down neither the
cameras nor the relative actions. Whatever stands here wins over what is read or inferred: the key 'pi_vla_ros' in
config.json, the same keys in a file 'pi_vla_ros.json' beside it, and `load_checkpoint(path, settings={...})`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pi_vla_ros.checkpoint.files import read_json
from pi_vla_ros.checkpoint.types import CheckpointError
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.schema import ConfigError, parse, setting

KEY = "pi_vla_ros"
FILE = "pi_vla_ros.json"


@dataclass(frozen=True)
class VisionSettings:
    width: int | None = setting(None, doc="width of the vision tower", least=1)
    depth: int | None = setting(None, doc="its layers", least=1)
    mlp: int | None = setting(None, doc="width of its MLPs", least=1)
    heads: int | None = setting(None, doc="attention heads; the only size that tensor shapes do not tell", least=1)
    patch: int | None = setting(None, doc="pixels of a patch's side", least=1)
    image: int | None = setting(None, doc="pixels of an image's side", least=1)


@dataclass(frozen=True)
class GemmaSettings:
    width: int | None = setting(None, doc="width of the stack", least=1)
    depth: int | None = setting(None, doc="its layers", least=1)
    mlp: int | None = setting(None, doc="width of its MLPs", least=1)
    heads: int | None = setting(None, doc="query heads", least=1)
    head_dim: int | None = setting(None, doc="width of a head", least=1)


@dataclass(frozen=True)
class GeometrySettings:
    model: Literal["pi0", "pi05"] | None = setting(None, doc="which of the two models")
    vision: VisionSettings = field(default_factory=VisionSettings)
    language: GemmaSettings = field(default_factory=GemmaSettings)
    expert: GemmaSettings = field(default_factory=GemmaSettings)
    vocab: int | None = setting(None, doc="rows of the embedding", least=1)
    chunk: int | None = setting(None, doc="future actions in one answer", least=1)
    action_dim: int | None = setting(None, doc="padded action dimensions", least=1)
    prompt_len: int | None = setting(None, doc="longest prompt", unit="tokens", least=1)


@dataclass(frozen=True)
class Settings:
    """Every key that we read; None: what the checkpoint says."""

    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    steps: int | None = setting(None, doc="Euler steps", least=1, most=1000)
    rtc_training_max_delay: int | None = setting(
        None,
        doc="π0.5: how many committed actions it was trained with at most (training-time real-time chunking)",
        unit="actions",
        least=0,
    )
    cameras: tuple[str, ...] | None = setting(None, doc="camera slots in the model's order")
    state_dim: int | None = setting(None, doc="the robot's state dimensions", least=1)
    action_dim: int | None = setting(None, doc="the robot's action dimensions", least=1)
    action_names: tuple[str, ...] | None = setting(None, doc="meaning of each action dimension")
    formula: Literal["lerobot", "openpi"] | None = setting(None, doc="whose normalisation formulas")
    normalization: Literal["mean_std", "quantiles"] | None = setting(None, doc="openpi: which statistics are used")
    prompt: Literal["pi05", "pi0", "pi0_raw"] | None = setting(None, doc="how the prompt is written")
    prompt_state_dims: int | None = setting(None, doc="π0.5: zeros are added to the state up to here; 0: none", least=0)
    relative: tuple[bool, ...] | None = setting(None, doc="which actions are offsets from the state")
    resize: Literal["pil", "fast", "lerobot", "lerobot04"] | None = setting(None, doc="how camera frames are resized")
    assets: str | None = setting(None, doc="openpi: which folder of assets/ has this robot's statistics")
    tokenizer: str | None = setting(None, doc="tokenizer file or folder")
    constant_dims: bool = setting(False, doc="accept statistics with a width of 0, as the references do")


def read_settings(folder: Path, config: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Settings:
    """What `config` (a config.json) has under our key, then 'pi_vla_ros.json', then `more`: the last one counts."""
    file = folder / FILE
    sources = (
        (config.get(KEY) or {}, f"{folder / 'config.json'}: {KEY}"),
        (read_json(file) if file.is_file() else {}, str(file)),
        (more or {}, "settings"),
    )
    settings = Settings()
    for data, where in sources:
        try:
            settings = _over(settings, parse(Settings, data, where))
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
    return settings


def checked_delay(delay: int, geometry: Geometry, where: Path) -> int:
    """`rtc_training_max_delay`, refused where no model can have been trained so."""
    if delay and geometry.model != "pi05":
        raise CheckpointError(
            f"{where}: rtc_training_max_delay: is {delay}; only π0.5 is trained with committed actions"
        )
    if not 0 <= delay < geometry.chunk:
        raise CheckpointError(f"{where}: rtc_training_max_delay: must be 0..{geometry.chunk - 1}, is {delay}")
    return delay


def _over(base: Any, top: Any) -> Any:
    """`base` with every value of `top` that is set, at any depth."""
    merged = {}
    for f in fields(base):
        a, b = getattr(base, f.name), getattr(top, f.name)
        merged[f.name] = _over(a, b) if hasattr(a, "__dataclass_fields__") else (a if b is None or b is False else b)
    return type(base)(**merged)
