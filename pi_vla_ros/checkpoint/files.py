# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reading JSON with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

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
