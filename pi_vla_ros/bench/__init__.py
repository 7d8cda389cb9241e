# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What `bench` is made of: cases, ceilings of the GPU, measuring, traces, tables."""
