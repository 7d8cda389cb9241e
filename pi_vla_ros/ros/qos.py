# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Quality of service per kind of data."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

_BEST, _SURE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE

IMAGES = QoSProfile(depth=5, reliability=_BEST)  # only the newest frame is of interest
JOINT_STATES = QoSProfile(depth=10, reliability=_BEST)  # matches reliable and best-effort publishers
COMMANDS = QoSProfile(depth=1, reliability=_SURE)
LATCHED = QoSProfile(depth=1, reliability=_SURE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TELEMETRY = QoSProfile(depth=10, reliability=_SURE)
