# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The demo: simulated robot and policy node, each its own process, watched, recorded and reported."""
