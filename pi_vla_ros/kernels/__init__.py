# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels. Each file shows first the PyTorch function that its kernel equals."""
