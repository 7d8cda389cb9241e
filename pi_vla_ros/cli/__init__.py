# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One file per command, thin: what `ros2 run pi_vla_ros <command>` starts."""
