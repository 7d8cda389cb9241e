# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All inputs of a step in one block of memory, on the host (pinned) and on the GPU: one copy uploads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.engine.noise import Keys
from pi_vla_ros.kernels.resize import FIELDS
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance


class Arena:
    """host: NumPy views to write into; device: tensors that the kernels read; rtc: those of real-time chunking."""

    def __init__(self, g, cameras: int, batch: int, prompt: int, device: torch.device, rtc: str, frames: Frames | None):
        size, count = g.vision.image, batch * cameras
        self._frames = frames
        target = {"target": (torch.float32, (batch, g.chunk, g.action_dim))}
        chunking = {
            "off": {},
            "guided": {**target, "weights": (torch.float32, (batch, g.chunk)), "most": (torch.float32, (batch,))},
            "trained": {**target, "delay": (torch.int32, (batch,))},
        }[rtc]
        if frames:
            pixels = {"records": (torch.int32, (count, FIELDS)), "block": (torch.uint8, (frames.nbytes,))}
        else:
            pixels = {"images": (torch.float32, (count, 3, size, size))}
        parts = {
            "lengths": (torch.int32, (batch,)),
            "tokens": (torch.int64, (batch, prompt)),
            "state": (torch.float32, (batch, g.action_dim)),
            "noise": (torch.float32, (batch, g.chunk, g.action_dim)),
            "keys": (torch.int64, (batch, 4)),
            "scale": (torch.float32, (batch,)),
            **chunking,
            **pixels,  # the last part is uploaded as far as it is used
        }
        offsets, end = {}, 0
        for name, (dtype, shape) in parts.items():
            self._last, offsets[name] = end, end
            end += -(-torch.Size(shape).numel() * dtype.itemsize // 256) * 256
        self._there = torch.zeros(end, dtype=torch.uint8, device=device)
        self._here = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")

        def views(block: Tensor) -> dict[str, Tensor]:
            seen = {}
            for name, (dtype, shape) in parts.items():
                length = torch.Size(shape).numel() * dtype.itemsize
                seen[name] = block[offsets[name] : offsets[name] + length].view(dtype).view(shape)
            return seen

        self.device = SimpleNamespace(**views(self._there))
        self.host = SimpleNamespace(**{name: part.numpy() for name, part in views(self._here).items()})
        kind = {"guided": Guidance, "trained": Committed}.get(rtc)
        self.rtc = kind and kind(*(getattr(self.device, name) for name in chunking))

    def images(self, images: Sequence[np.ndarray]) -> int:
        """(3, S, S) float32, or frames (H, W, 3) uint8 where there are `frames` -> bytes to upload of them."""
        if self._frames:
            return self._frames.pack(images, self.host.records, self.host.block)
        for to, image in zip(self.host.images, images, strict=False):
            to[...] = image
        return self.host.images[: len(images)].nbytes

    def noise(self, n: int, noise: Tensor | Keys) -> None:
        """Of the first `n` robots: given, or what the graph draws it from."""
        if isinstance(noise, Tensor):
            self.host.noise[:n] = noise.numpy(force=True)
            self.host.keys[:n] = 0
        else:
            self.host.keys[:n], self.host.scale[:n] = noise.keys.numpy(), noise.scale.numpy()

    def chunk(self, n: int, rtc: Chunking | None) -> None:
        """Real-time chunking of the first `n` robots; none: weights or delays of 0."""
        if rtc is not None:
            for part in fields(rtc):
                getattr(self.host, part.name)[:n] = getattr(rtc, part.name).numpy()
        elif self.rtc is not None:
            (self.host.weights if isinstance(self.rtc, Guidance) else self.host.delay)[:n] = 0

    def upload(self, used: int) -> None:
        """Everything, and `used` bytes of the images."""
        end = self._last + used
        self._there[:end].copy_(self._here[:end], non_blocking=True)
