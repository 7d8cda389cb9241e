# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What several tests need: tiny checkpoints, made once. Without a GPU, Triton's kernels run in its interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # before the first kernel is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pi_vla_ros.robot import load_robot


@pytest.fixture(scope="session")
def sim_robot():
    return load_robot("sim")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """model name -> folder of a tiny checkpoint with random weights for robot 'sim'."""
    from pi_vla_ros.cli.make_checkpoint import make_checkpoint
    from pi_vla_ros.model.geometry import tiny

    made = {}

    def make(model: str = "pi05"):
        if model not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / model
            made[model] = make_checkpoint(folder, tiny(model), "sim", seed=1)
        return made[model]

    return make
