# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model as it stands, on any device: the slow, obvious path."""

from __future__ import annotations

import itertools
import time

import torch
from torch import Tensor

from pi_vla_ros.engine.requests import Inputs
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import each


class ReferenceRunner:
    """Runs a step operation by operation; nothing is padded, captured or kept."""

    def __init__(self, model: PiModel, *, cameras: int, max_batch: int, steps: int):
        self._model, self._steps = model, steps
        self._device = model.action_in_proj.weight.device
        self._stage_ms: dict[str, float] = {}

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> Tensor:
        """A checked request -> actions (B, chunk, action_dim) float32 on the host."""
        model, marks = self._model, [self._now()]
        longest = int(inputs.lang_lens.max())
        images, cameras, ids, lengths, noise = (
            x.to(self._device)
            for x in (
                inputs.pixel_values,
                inputs.camera_mask,
                inputs.input_ids[:, :longest],
                inputs.lang_lens,
                inputs.noise,
            )
        )
        state = None if inputs.state is None else inputs.state.to(self._device)
        marks.append(self._now())
        x, valid = model.embed_prefix(images, cameras, ids, lengths)
        marks.append(self._now())
        prefix = model.prefix(x, valid)
        marks.append(self._now())
        actions = sample(model, prefix, noise, state, self._steps, each(inputs.rtc, lambda t: t.to(self._device)))
        marks.append(self._now())
        actions = actions.cpu()
        marks.append(self._now())
        upload, vision, prefix_ms, expert, download = (1e3 * (b - a) for a, b in itertools.pairwise(marks))
        self._stage_ms = {"vision": vision, "prefix": prefix_ms, "expert": expert, "copies": upload + download}
        return actions

    def stage_ms(self) -> dict[str, float]:
        return self._stage_ms

    def close(self) -> None:
        del self._model

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
