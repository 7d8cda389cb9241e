# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Installation by pip; setup.cfg has everything but the files for <prefix>/share."""

from collections import defaultdict
from pathlib import Path

from setuptools import setup

SHARE = Path("share/pi_vla_ros")


def share_files() -> list[tuple[str, list[str]]]:
    """Robot descriptions, launch files and ROS's markers, placed where ament places them.

    The package then looks for them in <prefix>/share/pi_vla_ros whoever installed it.
    """
    files = defaultdict(list)
    files["share/ament_index/resource_index/packages"].append("resource/pi_vla_ros")
    files[str(SHARE)].append("package.xml")
    for folder in ("config", "launch"):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[str(SHARE / path.parent)].append(str(path))
    return list(files.items())


setup(data_files=share_files())
