# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What π0 and π0.5 compute: plain PyTorch, no state, no I/O. The meaning of everything else."""
