# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""π0 on a robot: ros2 launch pi_vla_ros pi0.launch.py robot:=aloha checkpoint:=/data/pi0 prompt:="fold the towel" """

from pi_vla_ros.ros.launching import policy_launch


def generate_launch_description():
    return policy_launch("pi0")
