# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Orbax trees of arrays, read with tensorstore alone: no JAX, no orbax, nothing unpickled.

`_METADATA` names the leaves; the arrays are zarr, each in its own folder or all in one OCDBT database.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pi_vla_ros.checkpoint.files import optional, read_json
from pi_vla_ros.checkpoint.types import CheckpointError

METADATA = "_METADATA"


@dataclass(frozen=True)
class Leaf:
    """One array on disk. dtype as tensorstore names it: 'float32', 'bfloat16'."""

    name: str
    folder: Path
    spec: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (2 if self.dtype in ("bfloat16", "float16") else 4)

    def read(self) -> torch.Tensor:
        """The whole array."""
        return _tensor(self, _open(self.spec))

    def layers(self) -> Iterator[torch.Tensor]:
        """The array along its first axis. At most one decoded copy and one layer are in memory.

        A chunk may hold all layers (a checkpoint of one device): it is decoded once and kept.
        """
        # the compressed bytes stay in the page cache; decoded ones only as long as this runs
        cache = {"cache_pool": {"total_bytes_limit": 2 * self.nbytes}, "file_io_mode": {"mode": "memmap"}}
        store = _open(self.spec, cache)
        for i in range(self.shape[0]):
            yield _tensor(self, store[i])


def _open(spec: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Any:
    import tensorstore

    return tensorstore.open(dict(spec), open=True, read=True, context=tensorstore.Context(dict(context or {}))).result()


def _tensor(leaf: Leaf, store: Any) -> torch.Tensor:
    try:
        array = store.read().result()
    except ValueError as error:
        raise CheckpointError(f"{leaf.folder}: {leaf.name}: cannot be read: {error}") from error
    if leaf.dtype == "bfloat16":  # numpy has none of its own
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def read_tree(folder: Path) -> dict[tuple[str, ...], Leaf]:
    """Path of each leaf -> leaf; only headers are read."""
    if importlib.util.find_spec("tensorstore") is None:
        raise CheckpointError(f"{folder}: JAX checkpoints are read with tensorstore: pip install tensorstore")
    file = folder / METADATA
    metadata = read_json(file)
    tree = optional(metadata, "tree_metadata", dict, file)
    if not tree:
        raise CheckpointError(f"{file}: tree_metadata: is missing or empty")
    ocdbt = (folder / "manifest.ocdbt").is_file()
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    leaves: dict[tuple[str, ...], Leaf] = {}
    for text, entry in tree.items():
        path = _path(entry, f"{file}: {text}")
        name = ".".join(path)
        if ocdbt:
            store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": f"{name}/"}
        else:
            store = {"driver": "file", "path": f"{folder / name}/"}
        spec = {"driver": driver, "kvstore": store}
        try:
            opened = _open(spec)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {name}: cannot be read: {error}") from error
        leaves[path] = Leaf(name, folder, spec, tuple(opened.shape), opened.dtype.name)
    return leaves


def _path(entry: Any, where: str) -> tuple[str, ...]:
    keys = optional(entry, "key_metadata", list, where) if isinstance(entry, dict) else None
    path = tuple(key.get("key") for key in keys or () if isinstance(key, dict))
    # a name becomes a path on disk
    if not path or not all(isinstance(key, str) and "/" not in key and ".." not in key for key in path):
        raise CheckpointError(f"{where}: key_metadata: must be a list of names")
    return path
