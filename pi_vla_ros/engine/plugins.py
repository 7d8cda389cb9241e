# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models that an engine can run, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pi_vla_ros.engine.requests import PI0Request, PI05Request
from pi_vla_ros.model.flow import STEPS
from pi_vla_ros.model.geometry import Geometry

MAX_STEPS = 50


@dataclass(frozen=True)
class PI05Args:
    """What a π0.5 engine is built from.

    checkpoint_dir:      folder with the weights. Without it `random_geometry` must be given: an engine is never
                         silently random.
    checkpoint_settings: what the files leave open, as in pi_vla_ros.json; {"geometry": {"chunk": 10}}, for example.
    random_geometry:     sizes of a model with seeded random weights (benchmarks, tests).
    max_batch_size:      robots that one step can serve; fixed for the engine's life.
    num_inference_steps: flow steps, 1..50; None takes the checkpoint's.
    cameras:             camera slots of a random model; a checkpoint says its own.
    rtc_training_max_delay: actions that a chunk may be committed to (training-time real-time chunking); None takes the
                         checkpoint's, 0 in a random model.
    seed:                of the noise and of random weights.
    """

    checkpoint_dir: str | Path | None = None
    checkpoint_settings: Mapping[str, object] | None = None
    random_geometry: Geometry | None = None
    max_batch_size: int = 1
    num_inference_steps: int | None = None
    rtc_training_max_delay: int | None = None
    cameras: int = 3
    seed: int = 0
    vision_params_dtype: torch.dtype | None = None

    def __post_init__(self):
        name = type(self).__name__
        if (self.checkpoint_dir is None) == (self.random_geometry is None):
            raise ValueError(f"{name}: give either checkpoint_dir or random_geometry")
        if self.max_batch_size < 1:
            raise ValueError(f"{name}.max_batch_size: must be at least 1, is {self.max_batch_size}")
        if self.num_inference_steps is not None and not 1 <= self.num_inference_steps <= MAX_STEPS:
            raise ValueError(f"{name}.num_inference_steps: must be 1..{MAX_STEPS}, is {self.num_inference_steps}")
        if self.cameras < 1:
            raise ValueError(f"{name}.cameras: must be at least 1, is {self.cameras}")

    @property
    def steps(self) -> int:
        return self.num_inference_steps or STEPS


@dataclass(frozen=True)
class PI0Args(PI05Args):
    """As `PI05Args`; π0's vision tower runs in fp32 as its reference does, bf16 on request."""

    vision_params_dtype: torch.dtype | None = torch.float32


@dataclass(frozen=True)
class Plugin:
    args: type
    request: type


PLUGINS = {"pi05": Plugin(PI05Args, PI05Request), "pi0": Plugin(PI0Args, PI0Request)}


def find_plugin(name: str, args) -> Plugin:
    """The plugin called `name`; errors name what is known and which arguments it takes."""
    if name not in PLUGINS:
        raise ValueError(f"plugin: '{name}' is not known; known: {', '.join(PLUGINS)}")
    plugin = PLUGINS[name]
    if type(args) is not plugin.args:
        raise ValueError(f"plugin_args: plugin '{name}' takes {plugin.args.__name__}, got {type(args).__name__}")
    return plugin
