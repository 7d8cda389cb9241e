# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The golden files: tiny models run by LeRobot 0.4.4, with weights, inputs and every intermediate result."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from pi_vla_ros.checkpoint.load import assemble
from pi_vla_ros.checkpoint.names import LM_HEAD, UNUSED, canonical
from pi_vla_ros.model.geometry import GemmaGeometry, Geometry, VisionGeometry
from pi_vla_ros.model.pi import PiModel, parameter_dtype

FOLDER = Path(__file__).parent / "data" / "golden"
NAMES = [f"{model}_{dtype}" for model in ("pi05", "pi0") for dtype in ("float32", "bfloat16")]


class Golden:
    """One file. given: in.*; expected: ref.*; stored: weights as named there; weights: canonical."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
            config = json.loads(f.metadata()["config"])
        self.stored = {key[2:]: t for key, t in tensors.items() if key.startswith("w.")}
        self.given = {key[3:]: t for key, t in tensors.items() if key.startswith("in.")}
        self.expected = {key[4:]: t for key, t in tensors.items() if key.startswith("ref.")}
        self.dtype, self.steps = getattr(torch, config["dtype"]), config["steps"]
        self.geometry = _geometry(name.split("_")[0], config, self.given["tokens"].shape[1])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        weights = {canonical(name): t for name, t in self.stored.items() if not name.endswith((LM_HEAD, UNUSED))}
        head = next(t for name, t in self.stored.items() if name.endswith(LM_HEAD))
        return {"embed_tokens.weight": head} | weights

    @property
    def images(self) -> torch.Tensor:
        """(2, 3, 3, S, S)"""
        return torch.stack([self.given[f"image{i}"] for i in range(3)], dim=1)

    @property
    def cameras(self) -> torch.Tensor:
        """(2, 3) bool"""
        return torch.stack([self.given[f"mask{i}"] for i in range(3)], dim=1)

    @property
    def lengths(self) -> torch.Tensor:
        return self.given["token_mask"].sum(1)

    def model(self, dtype: torch.dtype | None = None) -> PiModel:
        """In the dtype of the file, or another."""
        weights = ((name, t.to(parameter_dtype(name, dtype or self.dtype))) for name, t in self.weights.items())
        return assemble(self.geometry, weights)


def _geometry(model: str, config: dict, prompt_len: int) -> Geometry:
    stacks = {
        part: GemmaGeometry(**{k: config[key][k] for k in ("width", "depth", "mlp", "heads", "head_dim")})
        for part, key in (("language", "vlm"), ("expert", "expert"))
    }
    s = config["siglip"]
    return Geometry(
        model=model,
        vision=VisionGeometry(s["width"], s["layers"], s["mlp"], s["heads"], s["patch"], s["image"]),
        vocab=config["vocab"],
        chunk=config["chunk"],
        action_dim=config["action_dim"],
        prompt_len=prompt_len,
        **stacks,
    )
