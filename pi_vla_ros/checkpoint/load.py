# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Any checkpoint -> `Checkpoint` -> a model ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi_vla_ros.checkpoint.lerobot import is_lerobot, load_lerobot
from pi_vla_ros.checkpoint.names import EMBED_TOKENS
from pi_vla_ros.checkpoint.openpi import is_openpi, load_openpi
from pi_vla_ros.checkpoint.openpi_jax import is_openpi_jax, load_openpi_jax
from pi_vla_ros.checkpoint.types import Checkpoint, CheckpointError
from pi_vla_ros.model.geometry import Geometry
from pi_vla_ros.model.pi import PiModel, parameter_dtype

# (does this folder look like it, read it); the first that fits reads
_FORMATS: tuple[tuple[Callable[[Path], bool], Callable[..., Checkpoint]], ...] = (
    (is_lerobot, load_lerobot),
    (is_openpi, load_openpi),
    (is_openpi_jax, load_openpi_jax),
)


def load_checkpoint(path: Path | str, settings: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint's metadata and tensor headers, and check all of it; no tensor is read yet.

    settings: what the files do not say, on top of their own 'pi_vla_ros' key
    (checkpoint/settings.py lists the keys). Raises CheckpointError (a ValueError) naming the file,
    the key and the reason; missing, unexpected and mis-shaped tensors are all listed by name.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise CheckpointError(f"{folder}: does not exist")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give the folder that has config.json and model.safetensors")
    for fits, load in _FORMATS:
        if fits(folder):
            return load(folder, settings)
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
    raise CheckpointError(
        f"{folder}: not a π0 / π0.5 checkpoint: neither config.json with a type (LeRobot) nor "
        f"model.safetensors (openpi) nor params/_METADATA (openpi, JAX); it has {there}"
    )


def load_model(
    checkpoint: Checkpoint,
    params_dtype: torch.dtype = torch.float32,
    vision_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    table: torch.device | str | None = None,
) -> PiModel:
    """The model with its weights, in eval mode, without gradients.

    Parameters get the dtype that `model.pi.parameter_dtype` says for `params_dtype` (and
    `vision_dtype` for the vision tower). They go to `device`, the token embedding (a sixth of them)
    to `table` if that is given. Tensors are read, cast and moved one by one: the peak is
    the model and one tensor.
    """

    def tensors():
        for name, tensor in checkpoint.tensors():
            dtype = parameter_dtype(name, params_dtype, vision_dtype)
            # always a copy: what is read may still look into the file, which may change under us
            to = place_of(name, device, table)
            yield name, tensor.to(to, dtype, copy=True, memory_format=torch.contiguous_format)

    return assemble(checkpoint.geometry, tensors())


def place_of(name: str, device: torch.device | str, table: torch.device | str | None) -> torch.device | str:
    """The device of a parameter."""
    return table if table is not None and name == EMBED_TOKENS else device


def assemble(geometry: Geometry, tensors: Iterable[tuple[str, Tensor]]) -> PiModel:
    """A model made of (name, tensor) for every parameter, each used as it is."""
    with torch.device("meta"):
        model = PiModel(geometry)
    owners, missing = dict(model.named_modules()), dict(model.named_parameters())
    for name, tensor in tensors:
        owner, _, attribute = name.rpartition(".")
        del missing[name]
        setattr(owners[owner], attribute, torch.nn.Parameter(tensor, requires_grad=False))
    if missing:
        raise CheckpointError(f"not given: {', '.join(missing)}")
    return model.eval()
