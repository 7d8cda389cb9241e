# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""π0.5 on a robot: ros2 launch pi_vla_ros pi05.launch.py robot:=aloha checkpoint:=/data/pi05 prompt:="fold" """

from pi_vla_ros.ros.launching import policy_launch


def generate_launch_description():
    return policy_launch("pi05")
