# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How well chunks become motion: ways of executing the same late, inconsistent chunks, side by side. Nothing here runs
on the robot."""
