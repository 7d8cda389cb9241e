# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a π0 / π0.5 model: the published ones, and any other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

ModelName = Literal["pi0", "pi05"]


def _divides(geometry, whole: str, part: str) -> None:
    a, b = getattr(geometry, whole), getattr(geometry, part)
    if a % b:
        raise ValueError(f"{whole} ({a}) must be a multiple of {part} ({b})")


@dataclass(frozen=True)
class VisionGeometry:
    """A SigLIP tower; the defaults are So400m/14 at 224 × 224."""

    width: int = 1152
    depth: int = 27
    mlp: int = 4304
    heads: int = 16
    patch: int = 14
    image: int = 224

    def __post_init__(self):
        _divides(self, "width", "heads")
        _divides(self, "image", "patch")

    @property
    def tokens(self) -> int:
        """Tokens that one image becomes."""
        return (self.image // self.patch) ** 2


@dataclass(frozen=True)
class GemmaGeometry:
    """A Gemma stack with one key/value head shared by all query heads; the defaults are Gemma 2B."""

    width: int = 2048
    depth: int = 18
    mlp: int = 16384
    heads: int = 8
    head_dim: int = 256

    def __post_init__(self):
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (rotary embedding), is {self.head_dim}")


GEMMA_300M = GemmaGeometry(width=1024, mlp=4096)


@dataclass(frozen=True)
class Geometry:
    """Everything that fixes the shapes of a model. The defaults are the published π0.5.

    chunk:      future actions in one answer.
    action_dim: padded action (and π0 state) dimensions inside the model.
    prompt_len: longest prompt, tokens; longer ones are cut.
    """

    model: ModelName = "pi05"
    vision: VisionGeometry = field(default_factory=VisionGeometry)
    language: GemmaGeometry = field(default_factory=GemmaGeometry)
    expert: GemmaGeometry = GEMMA_300M
    vocab: int = 257152
    chunk: int = 50
    action_dim: int = 32
    prompt_len: int = 200

    def __post_init__(self):
        for name in ("depth", "heads", "head_dim"):  # the two stacks share every layer's attention
            a, b = getattr(self.language, name), getattr(self.expert, name)
            if a != b:
                raise ValueError(f"language.{name} ({a}) and expert.{name} ({b}) must be equal")

    @property
    def suffix(self) -> int:
        """Tokens of the action expert: π0 has the state before the actions."""
        return self.chunk + (self.model == "pi0")


PI05 = Geometry()
PI0 = Geometry(model="pi0", prompt_len=48)


def tiny(model: ModelName, **changes) -> Geometry:
    """A model small enough for a laptop's control loop, with every part of the real one."""
    base = Geometry(
        model=model,
        vision=VisionGeometry(width=48, depth=2, mlp=96, heads=4, patch=14, image=56),
        language=GemmaGeometry(width=64, depth=2, mlp=128, heads=4, head_dim=16),
        expert=GemmaGeometry(width=48, depth=2, mlp=96, heads=4, head_dim=16),
        vocab=512,
        chunk=50,
        prompt_len=200 if model == "pi05" else 48,
    )
    return replace(base, **changes)
