# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fast runner: Triton kernels, folded weights, one captured graph a step."""
