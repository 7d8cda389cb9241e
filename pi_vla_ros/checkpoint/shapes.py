# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The geometry of a checkpoint: what our key says, then published sizes, then tensor shapes."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint.settings import KEY, GeometrySettings
from pi_vla_ros.checkpoint.types import CheckpointError
from pi_vla_ros.model.geometry import GEMMA_300M, GemmaGeometry, Geometry, ModelName, VisionGeometry

# openpi's names for Gemma sizes
VARIANTS = {
    "gemma_2b": GemmaGeometry(),
    "gemma_300m": GEMMA_300M,
    "dummy": GemmaGeometry(width=64, depth=4, mlp=128, heads=8, head_dim=16),
}

# tensor -> what its axes are; every tensor of every layer votes, so that one wrong shape does not
# fool us
_AXES = {
    r"vision\.patch_embedding\.weight": ("vision.width", None, "vision.patch", "vision.patch"),
    r"vision\.position_embedding\.weight": ("vision.tokens", "vision.width"),
    r"vision\.layers\.\d+\.mlp\.fc1\.weight": ("vision.mlp", "vision.width"),
    r"vision\.layers\.\d+\.mlp\.fc2\.weight": ("vision.width", "vision.mlp"),
    r"projector\.weight": ("language.width", "vision.width"),
    r"embed_tokens\.weight": ("vocab", "language.width"),
    r"(?P<s>language|expert)\.layers\.\d+\.self_attn\.q_proj\.weight": ("{s}.queries", "{s}.width"),
    r"(?P<s>language|expert)\.layers\.\d+\.self_attn\.[kv]_proj\.weight": ("{s}.head_dim", "{s}.width"),
    r"(?P<s>language|expert)\.layers\.\d+\.self_attn\.o_proj\.weight": ("{s}.width", "{s}.queries"),
    r"(?P<s>language|expert)\.layers\.\d+\.mlp\.(gate|up)_proj\.weight": ("{s}.mlp", "{s}.width"),
    r"(?P<s>language|expert)\.layers\.\d+\.mlp\.down_proj\.weight": ("{s}.width", "{s}.mlp"),
    r"action_in_proj\.weight": ("expert.width", "action_dim"),
    r"action_out_proj\.weight": ("action_dim", "expert.width"),
}
_AXES = {re.compile(pattern): axes for pattern, axes in _AXES.items()}
_LAYER = re.compile(r"(vision|language|expert)\.layers\.(\d{1,4})\.")


def find_geometry(
    shapes: Mapping[str, tuple[int, ...]],
    model: ModelName,
    ours: GeometrySettings,
    config: Mapping[str, Any],
    where: Path,
    variants: tuple[str | None, ...] = (None, None),
    more: Mapping[str, int] | None = None,
) -> tuple[Geometry, dict[str, str]]:
    """The geometry and, for each setting, where it comes from.

    config: 'chunk' and 'prompt_len' where a config file says them. variants: its names of the
    language and expert sizes. A stack as wide as a published one is taken to be that one, so that
    missing layers are noticed. more: sizes that a format tells beyond the canonical shapes.
    """
    told = told_by_shapes(shapes) | dict(more or {})
    values: dict[str, int] = {}
    source: dict[str, str] = {}

    def choose(name: str, *candidates: tuple[int | None, str]) -> None:
        value, source[name] = next((c for c in candidates if c[0] is not None), (None, "default"))
        if value is not None:
            values[name] = value

    for part, settings in (("vision", ours.vision), ("language", ours.language), ("expert", ours.expert)):
        published, word = _published(part, told.get(f"{part}.width"), variants)
        for name, given in asdict(settings).items():
            key, fixed = f"{part}.{name}", published.get(name)
            free = name in ("image", "patch")  # PaliGemma exists for other image sizes
            seen = (told.get(key), "tensor shapes")
            known = (fixed, word)
            choose(key, (given, "our key"), *((seen, known) if free else (known, seen)))
    for name in ("vocab", "action_dim"):
        choose(name, (getattr(ours, name), "our key"), (told.get(name), "tensor shapes"))
    for name in ("chunk", "prompt_len"):
        default = (48, "default") if (name, model) == ("prompt_len", "pi0") else (None, "default")
        choose(name, (getattr(ours, name), "our key"), (config.get(name), "config.json"), default)
    if "vision.heads" not in values:
        raise CheckpointError(
            f"{where}: vision.heads: the vision tower is {told.get('vision.width')} wide, not a "
            f"published size, and tensor shapes do not tell its heads; give "
            f"'{KEY}': {{'geometry': {{'vision': {{'heads': ...}}}}}}"
        )
    try:
        geometry = Geometry(
            model=model,
            vision=VisionGeometry(**_part(values, "vision")),
            language=GemmaGeometry(**_part(values, "language")),
            expert=GemmaGeometry(**(asdict(GEMMA_300M) | _part(values, "expert"))),
            **{name: value for name, value in values.items() if "." not in name},
        )
    except ValueError as error:
        raise CheckpointError(f"{where}: its geometry is not possible: {error}") from error
    return geometry, source


def told_by_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Every size that the tensors' shapes tell, by majority."""
    votes: dict[str, Counter] = defaultdict(Counter)
    layers: dict[str, set[int]] = defaultdict(set)
    for name, shape in shapes.items():
        if layer := _LAYER.match(name):
            layers[layer[1]].add(int(layer[2]))
        for pattern, axes in _AXES.items():
            match = pattern.fullmatch(name)
            if match and len(axes) == len(shape):
                for axis, size in zip(axes, shape, strict=True):
                    if axis and size > 0:
                        votes[axis.format(**match.groupdict())][size] += 1
    told = {name: counter.most_common(1)[0][0] for name, counter in votes.items()}
    for part, found in layers.items():  # a stray index does not make a deep model
        told[f"{part}.depth"] = min(max(found) + 1, 2 * len(found))
    deepest = max(told.get("language.depth", 0), told.get("expert.depth", 0))
    for part in ("language", "expert"):  # the two share every layer's attention
        if deepest:
            told[f"{part}.depth"] = deepest
        queries = told.pop(f"{part}.queries", 0)
        if queries and told.get(f"{part}.head_dim"):
            told[f"{part}.heads"] = max(1, queries // told[f"{part}.head_dim"])
    tokens = told.pop("vision.tokens", 0)
    if tokens and math.isqrt(tokens) ** 2 == tokens and "vision.patch" in told:
        told["vision.image"] = math.isqrt(tokens) * told["vision.patch"]
    return told


def _published(part: str, width: int | None, variants: tuple[str | None, ...]) -> tuple[dict, str]:
    """The sizes of the published part of that width, or nothing; and who says so."""
    if part == "vision":
        vision = VisionGeometry()
        return (asdict(vision), "default") if width in (None, vision.width) else ({}, "")
    variant = variants[part == "expert"]
    named = VARIANTS.get(variant.removesuffix("_lora")) if variant else None
    if named and width in (None, named.width):
        return asdict(named), "config.json"
    usual = VARIANTS["gemma_2b" if part == "language" else "gemma_300m"]
    return (asdict(usual), "default") if width in (None, usual.width) else ({}, "")


def _part(values: Mapping[str, int], part: str) -> dict[str, int]:
    return {name.partition(".")[2]: value for name, value in values.items() if name.startswith(part + ".")}
