# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Policy units <-> model units: images, prompt, normalisation, relative actions. No ROS, no model."""
