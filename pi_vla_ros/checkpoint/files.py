# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reading JSON with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint.types import CheckpointError


def read_json(file: Path) -> dict:
    """The mapping in a JSON file."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: must be a mapping")
    return data


_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def optional(config: Mapping[str, Any], key: str, kind: type, where: Path | str) -> Any:
    """config[key], None when it is absent or null; refused when it is of another kind."""
    value = config.get(key)
    good = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if value is not None and not good:
        raise CheckpointError(f"{where}: {key}: must be {_NAMES[kind]}, is {value!r}")
    return value


def positive(config: Mapping[str, Any], key: str, where: Path | str) -> int | None:
    """A whole number above 0, or None."""
    value = optional(config, key, int, where)
    if value is not None and value < 1:
        raise CheckpointError(f"{where}: {key}: must be at least 1, is {value}")
    return value


def words(config: Mapping[str, Any], key: str, where: Path | str) -> tuple[str, ...] | None:
    """A list of texts, or None when it is absent or empty."""
    value = optional(config, key, list, where)
    if value and not all(isinstance(word, str) for word in value):
        raise CheckpointError(f"{where}: {key}: must be a list of texts, is {value!r}")
    return tuple(value) if value else None
