# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where the package's own files are."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def package_folders() -> list[Path]:
    """Where the package's files are: the source tree, then below each ROS prefix, then below this Python."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    return [Path(__file__).resolve().parents[1]] + [Path(p) / "share" / "pi_vla_ros" for p in prefixes]


def config_folders() -> list[Path]:
    """The `config` folders that exist."""
    return [p / "config" for p in package_folders() if (p / "config").is_dir()]


def package_file(name: str) -> Path:
    """The file `name`, such as config/fastdds.xml; FileNotFoundError when the installation is incomplete."""
    for folder in package_folders():
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(map(str, package_folders()))
    raise FileNotFoundError(f"{name} of pi_vla_ros is not installed; searched: {searched}")
