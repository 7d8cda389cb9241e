# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files on disk -> canonical tensors, geometry, normalisation. One module per format, no pickle."""

from pi_vla_ros.checkpoint.load import load_checkpoint, load_model
from pi_vla_ros.checkpoint.random import random_model
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "load_model", "random_model"]
