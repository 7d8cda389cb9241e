# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From chunks to commands: reference, join, limits, tail; and the clock that publishes them. No torch, no rclpy."""
