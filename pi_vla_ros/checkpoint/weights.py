# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Safetensors with openpi's or LeRobot's names as canonical weights; the strict check of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pi_vla_ros.checkpoint.names import EMBED_TOKENS, LM_HEAD, OUTER, UNUSED, canonical
from pi_vla_ros.checkpoint.safetensors import DTYPES, Header, read_tensors
from pi_vla_ros.checkpoint.types import CheckpointError, Weights
from pi_vla_ros.model.geometry import Geometry, ModelName
from pi_vla_ros.model.pi import PiModel

LISTED = 40  # names listed in one error; more are counted


@dataclass(frozen=True)
class StoredWeights:
    """Tensors in safetensors files. headers: canonical name -> (name on disk, header)."""

    headers: Mapping[str, tuple[str, Header]]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: header.shape for name, (_, header) in self.headers.items()}

    def dtypes(self) -> dict[str, str]:
        return {n: str(DTYPES.get(h.dtype, h.dtype)).removeprefix("torch.") for n, (_, h) in self.headers.items()}

    def read(self) -> Iterator[tuple[str, Tensor]]:
        ours = {stored: name for name, (stored, _) in self.headers.items()}
        for stored, tensor in read_tensors(dict(self.headers.values())):
            yield ours[stored], tensor


def stored_weights(headers: Mapping[str, Header], where: Path, model: ModelName | None = None) -> StoredWeights:
    """Give stored tensors their canonical names; what has none keeps its own and fails `check_weights`.

    `model`: what config.json says. For π0.5 the leftovers of a π0 that it was made from are renamed
    or dropped as LeRobot does. The expert's LM head is random and unused: dropped. The language
    model's LM head stands for the embedding only where that is absent (the two were one tensor when
    it was saved).
    """
    found: dict[str, tuple[str, Header]] = {}
    lm_head = None
    for stored, header in headers.items():
        bare = stored.removeprefix(OUTER)
        if bare == UNUSED:
            continue
        if bare == LM_HEAD:
            lm_head = (stored, header)
            continue
        name = canonical(stored) or stored
        if model == "pi05":
            name = name.replace("action_time_mlp_", "time_mlp_", 1) if name.startswith("action_time_mlp_") else name
            if name.startswith("state_proj.") or (name.startswith("expert.") and name.endswith("norm.weight")):
                continue
        if name in found:
            raise CheckpointError(f"{where}: {stored} and {found[name][0]} are the same tensor under two names")
        found[name] = (stored, header)
    if EMBED_TOKENS not in found and lm_head is not None:
        found[EMBED_TOKENS] = lm_head
    return StoredWeights(found)


def model_of(shapes: Mapping[str, tuple[int, ...]], where: Path) -> ModelName:
    """π0 or π0.5, by the heads that only one of them has."""
    pi05, pi0 = "time_mlp_in.weight" in shapes, "state_proj.weight" in shapes
    if pi05 == pi0:
        words = ("both", "and") if pi0 else ("neither", "nor")
        raise CheckpointError(f"{where}: has {words[0]} time_mlp_in.weight (π0.5) {words[1]} state_proj.weight (π0)")
    return "pi05" if pi05 else "pi0"


def parameter_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of the model."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in PiModel(geometry).state_dict().items()}


def check_weights(weights: Weights, geometry: Geometry, where: Path) -> None:
    """Refuse what is missing, unexpected, mis-shaped or of another dtype, listing all of it by name."""
    expected, found, dtypes = parameter_shapes(geometry), weights.shapes(), weights.dtypes()
    wrong = {
        "missing": [n for n in expected if n not in found],
        "unexpected": [n for n in found if n not in expected],
        "wrong shape": [
            f"{n} {list(found[n])}, the model has {list(shape)}"
            for n, shape in expected.items()
            if n in found and found[n] != shape
        ],
        "wrong dtype": [
            f"{n} {dtypes[n]}; allowed: float32, bfloat16, float16"
            for n in expected
            if n in found and dtypes[n] not in ("float32", "bfloat16", "float16")
        ],
    }
    lines = []
    for problem, names in wrong.items():
        if names:
            rest = f"\n    ... and {len(names) - LISTED} more" if len(names) > LISTED else ""
            lines.append(f"  {problem} ({len(names)}):\n    " + "\n    ".join(names[:LISTED]) + rest)
    if lines:
        raise CheckpointError(f"{where}: its tensors are not those of this {geometry.model} model\n" + "\n".join(lines))
