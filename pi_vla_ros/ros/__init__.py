# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: the only room, with the simulated robot's node, that imports rclpy."""
