# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The DDS profile that camera images need (why: config/fastdds.xml)."""

from __future__ import annotations

import os

from pi_vla_ros.resources import package_file

VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2, Fast DDS 3


def shared_memory_profile(environment: dict[str, str]) -> dict[str, str]:
    """What to add to `environment` so that a node gets the profile: nothing if the user chose an RMW or profile."""
    fast = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps")
    if not fast or any(name in environment for name in VARIABLES):
        return {}
    return dict.fromkeys(VARIABLES, str(package_file("config/fastdds.xml")))


def use_shared_memory_profile() -> None:
    """Give this process the profile. Before rclpy.init()."""
    os.environ.update(shared_memory_profile(dict(os.environ)))
