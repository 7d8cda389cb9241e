# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is measured: a model, its inputs' sizes, a precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pi_vla_ros.engine import (
    DeviceConfig,
    Engine,
    EngineArgs,
    EngineConfig,
    PI0Args,
    PI0Request,
    PI05Args,
    PI05Request,
    RuntimeConfig,
)
from pi_vla_ros.engine.fp8 import FP8
from pi_vla_ros.model.geometry import PI0, PI05, Geometry, tiny

DTYPES = {"bf16": torch.bfloat16, "fp8": FP8, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """views: cameras; frame: (height, width) of theirs; prompt_len: tokens; chunk_size: actions; steps: of the flow;
    batch: robots.

    vision_precision: of the vision tower; None: the same. π0's reference has it in fp32.
    checkpoint: folder of the weights, whose model and chunk then count; None: seeded random ones.
    tiny: a model of toy size, to try the commands with.
    """

    model: str = "pi05"
    views: int = 3
    frame: tuple[int, int] = (224, 224)
    prompt_len: int = 48
    chunk_size: int = 50
    steps: int = 10
    batch: int = 1
    precision: str = "bf16"
    vision_precision: str | None = None
    checkpoint: Path | None = None
    tiny: bool = False

    @property
    def geometry(self) -> Geometry:
        """Of the random model."""
        base = tiny(self.model) if self.tiny else {"pi0": PI0, "pi05": PI05}[self.model]
        return replace(base, chunk=self.chunk_size, prompt_len=max(base.prompt_len, self.prompt_len))

    def engine(self, device: torch.device) -> Engine:
        """Everything in one precision, π0's vision tower too, unless `vision_precision` says otherwise."""
        dtype = DTYPES[self.precision]
        if dtype == FP8 and self.vision_precision:
            raise ValueError("--vision-precision: with --precision fp8 the vision tower is in fp8, too; leave it out")
        sizes = {"max_batch_size": self.batch, "num_inference_steps": self.steps}
        sizes["vision_params_dtype"] = None if dtype == FP8 else DTYPES[self.vision_precision or self.precision]
        if self.checkpoint is None:
            sizes |= {"random_geometry": self.geometry, "cameras": self.views}
        else:
            sizes["checkpoint_dir"] = self.checkpoint
        args = (PI0Args if self.model == "pi0" else PI05Args)(**sizes)
        threads = 1 if self.tiny else 0  # more only wait for each other over a toy model
        placed = DeviceConfig(device.type, params_dtype=dtype, cpu_threads=threads)
        config = EngineConfig(placed, RuntimeConfig(largest_frame=self.frame))
        return Engine(EngineArgs(self.model, args, config))

    def request(self, engine: Engine) -> PI0Request | PI05Request:
        """Random camera frames and prompts; of more cameras than `views`, the first are there."""
        g, b, cameras = engine.geometry, self.batch, engine.cameras
        if not 1 <= self.views <= cameras or not 1 <= self.prompt_len <= g.prompt_len:
            raise ValueError(
                f"--views {self.views} --prompt-len {self.prompt_len}: this model takes 1..{cameras} cameras and "
                f"1..{g.prompt_len} tokens"
            )
        rng, bytes_ = torch.Generator().manual_seed(0), np.random.default_rng(0)
        absent = [None] * (cameras - self.views)

        def frame() -> np.ndarray:
            """Where the node's decoder puts them."""
            room = engine.empty_frame(*self.frame)
            room[...] = bytes_.integers(0, 256, room.shape, dtype=np.uint8)
            return room

        frames = [[frame() for _ in range(self.views)] + absent for _ in range(b)]
        fields = {
            "pixel_values": None,
            "frames": frames,
            "input_ids": torch.randint(g.vocab, (b, self.prompt_len), generator=rng),
            "lang_lens": torch.full((b,), self.prompt_len),
            "noise": torch.randn(b, g.chunk, g.action_dim, generator=rng),
        }
        if g.model == "pi05":
            return PI05Request(**fields)
        return PI0Request(**fields, state=torch.randn(b, g.action_dim, generator=rng))
