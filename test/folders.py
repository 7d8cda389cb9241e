# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders for tests: one made for each model, copied and changed as a test needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pi_vla_ros.cli.make_checkpoint import make_checkpoint
from pi_vla_ros.model.geometry import GemmaGeometry, VisionGeometry, tiny

SMALL = {
    "vision": VisionGeometry(width=24, depth=2, mlp=32, heads=2, patch=14, image=28),
    "language": GemmaGeometry(width=16, depth=2, mlp=32, heads=2, head_dim=8),
    "expert": GemmaGeometry(width=16, depth=2, mlp=24, heads=2, head_dim=8),
    "chunk": 4,
}


def small(model: str):
    return tiny(model, **SMALL)


def make(folder: Path, model: str = "pi05", **options) -> Path:
    return make_checkpoint(folder, small(model), **options)


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def edit_json(file: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_stats(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    for file in folder.glob("policy_*normalizer_processor.safetensors"):
        edit_tensors(file, change)
