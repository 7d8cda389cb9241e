# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's tokenizer may be: with it, or in Hugging Face's and openpi's downloads."""

from __future__ import annotations

import os
from pathlib import Path

from pi_vla_ros.checkpoint.types import CheckpointError
from pi_vla_ros.processing.tokenizer import find_tokenizer

PALIGEMMA = "google/paligemma-3b-pt-224"


def find_tokenizer_of(folder: Path, asked: str | None = None, name: str | None = None) -> Path | None:
    """The file that the user `asked` for, or the checkpoint `name`s, or beside it, or in a cache."""
    if asked is not None:
        path = folder / asked
        file = find_tokenizer(path) if path.is_dir() else path
        if file is None or not file.is_file():
            raise CheckpointError(f"{folder}: tokenizer: no tokenizer at {path}")
        return file
    names = [name] if isinstance(name, str) and name else []
    places = [folder / n for n in names] + [folder / "tokenizer", folder]
    places += [place for n in (*names, PALIGEMMA) for place in _hugging_face(n)]
    places.append(Path(os.environ.get("OPENPI_DATA_HOME", Path.home() / ".cache" / "openpi")) / "big_vision")
    return next((file for place in places if place.is_dir() and (file := find_tokenizer(place))), None)


def _hugging_face(name: str) -> list[Path]:
    """Snapshots of a repository in Hugging Face's cache, newest first."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = (hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*")
    return sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True)
