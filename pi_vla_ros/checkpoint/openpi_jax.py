# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""openpi's JAX checkpoints: an orbax tree 'params', with layers stacked, perhaps with LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi_vla_ros.checkpoint.jax_names import lora_of, merge_lora, rule_for
from pi_vla_ros.checkpoint.openpi import openpi_checkpoint
from pi_vla_ros.checkpoint.orbax import METADATA, Leaf, read_tree
from pi_vla_ros.checkpoint.settings import read_settings
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError

_QUERY = "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel"


@dataclass(frozen=True)
class JaxWeights:
    """Stacked arrays. leaves: path -> array; lora: path of a weight -> its 'a' and 'b'."""

    leaves: Mapping[str, Leaf]
    lora: Mapping[str, Mapping[str, Leaf]]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(x.shape) for path in self.leaves for name, x in self._planned(path)}

    def dtypes(self) -> dict[str, str]:
        return {name: leaf.dtype for path, leaf in self.leaves.items() for name, _ in self._planned(path)}

    def read(self) -> Iterator[tuple[str, Tensor]]:
        for path, leaf in self.leaves.items():
            rule = rule_for(path, len(leaf.shape))
            if not rule.stacked:
                yield from rule.tensors(leaf.read())
                continue
            pair = {which: half.read().float() for which, half in self.lora.get(path, {}).items()}
            for i, layer in enumerate(leaf.layers()):
                if pair:
                    layer = merge_lora(path, layer.float(), pair["a"][i], pair["b"][i])
                yield from rule.tensors(layer, i)

    def _planned(self, path: str) -> list[tuple[str, Tensor]]:
        """What a leaf will become, without memory; an unknown one keeps its name, and is refused."""
        shape = self.leaves[path].shape
        x, rule = torch.empty(shape, device="meta"), rule_for(path, len(shape))
        if rule is None:
            return [(path, x)]
        try:
            layers = enumerate(x if rule.stacked else [x])
            return [pair for i, layer in layers for pair in rule.tensors(layer, i)]
        except (ValueError, RuntimeError) as error:
            leaf = self.leaves[path]
            raise CheckpointError(f"{leaf.folder}: {leaf.name}: shape {list(shape)}: {error}") from error


def is_openpi_jax(folder: Path) -> bool:
    """The folder that has params/, or params itself."""
    return (folder / "params" / METADATA).is_file() or (folder / METADATA).is_file()


def load_openpi_jax(folder: Path, more: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read an openpi JAX folder; `more` are settings on top of those in its pi_vla_ros.json."""
    params = folder / "params" if (folder / "params" / METADATA).is_file() else folder
    root = params.parent if params.name == "params" else params
    weights = _weights(params)
    query = weights.leaves.get(_QUERY)
    told = {"vision.heads": query.shape[2]} if query is not None and len(query.shape) == 4 else {}
    return openpi_checkpoint(root, "openpi-jax", weights, read_settings(root, {}, more), {}, told)


def _weights(params: Path) -> JaxWeights:
    leaves: dict[str, Leaf] = {}
    lora: dict[str, dict[str, Leaf]] = {}
    for path, leaf in read_tree(params).items():
        keys = path[1:] if path[0] == "params" else path
        keys = keys[:-1] if keys and keys[-1] == "value" else keys  # saved in training
        name = "/".join(keys)
        if adapted := lora_of(name):
            lora.setdefault(adapted[0], {})[adapted[1]] = leaf
        elif name in leaves:
            raise CheckpointError(f"{params}: {leaf.name} and {leaves[name].name} are the same array")
        else:
            leaves[name] = leaf
    for path, pair in lora.items():
        _check_lora(params, path, leaves, pair)
    return JaxWeights(leaves, lora)


def _check_lora(params: Path, path: str, leaves: Mapping[str, Leaf], pair: Mapping[str, Leaf]) -> None:
    """Both halves, of one rank, for a weight that is there."""
    if path not in leaves or set(pair) != {"a", "b"}:
        raise CheckpointError(f"{params}: {path}: LoRA needs lora_a, lora_b and the weight itself")
    w, a, b = leaves[path].shape, pair["a"].shape, pair["b"].shape
    fits = len(w) == len(a) == len(b) and a[-1] == b[-2] and a[:-1] == w[:-1] and (*b[:-2], b[-1]) == (*w[:-2], w[-1])
    if not fits:
        raise CheckpointError(f"{params}: {path}: LoRA {list(a)} x {list(b)} does not fit the weight {list(w)}")
