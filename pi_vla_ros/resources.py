# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where the package's own files are."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_folders() -> list[Path]:
    """The `config` folders that exist: of the source tree, then of each ROS prefix, then of this Python."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    places = [Path(__file__).resolve().parents[1] / "config"]
    places += [Path(p) / "share" / "pi_vla_ros" / "config" for p in prefixes]
    return [p for p in places if p.is_dir()]


def config_file(name: str) -> Path:
    """The file `config/<name>`; FileNotFoundError when the installation is incomplete."""
    for folder in config_folders():
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"config/{name} of pi_vla_ros is not installed; searched: {config_folders()}")
