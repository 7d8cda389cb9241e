# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A simulated robot and the policy node with random weights: ros2 launch pi_vla_ros demo.launch.py"""

from pi_vla_ros.ros.launching import demo_launch


def generate_launch_description():
    return demo_launch()
