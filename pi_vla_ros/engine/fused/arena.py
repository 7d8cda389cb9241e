# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All inputs of a step in one block of memory, on the host (pinned) and on the GPU: the images, then the rest."""

from __future__ import annotations

import functools
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

PIECE = 1 << 19  # bytes of images that are worth a copy of their own, beside which the host goes on


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
            **pixels,  # the last parts; the very last is uploaded as far as it is used
        }
        offsets, end = {}, 0
        for name, (dtype, shape) in parts.items():
            offsets[name] = end
            end += -(-torch.Size(shape).numel() * dtype.itemsize // 256) * 256
        first, *_, last = (next(iter(pixels)), *pixels)
        self._first, self._pixels = offsets[first], offsets[last]
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
        # float images, as `Frames.place` says of frames where they go: views, and their first bytes
        squares = () if frames else self.host.images
        self._squares = functools.cache(lambda n: [(to, i * to.nbytes) for i, to in enumerate(squares[:n])])
        self._placed = self._pieces = None
        self._rest = self._there[: self._first], self._here[: self._first]
        kind = {"guided": Guidance, "trained": Committed}.get(rtc)
        self.rtc = kind and kind(*(getattr(self.device, name) for name in chunking))

    def images(self, images: Sequence[np.ndarray]) -> bool:
        """Uploads (3, S, S) float32, or frames (H, W, 3) uint8 where there are `frames`: while one piece is on its way
        the next is copied into pinned memory. Whether they are frames that need no resizing."""
        if self._frames:
            images, places = self._frames.place(images, self.host.records, self.host.block)
        else:
            places = self._squares(len(images))
        if places is not self._placed:
            self._placed, self._pieces = places, self._cut(places)
        for image, rows, to, upload in self._pieces:
            np.copyto(to, images[image][rows])
            if upload:
                upload[0].copy_(upload[1], non_blocking=True)
        return self._frames is not None and self._frames.square

    def _cut(self, places: Sequence[tuple[np.ndarray, int]]) -> list[tuple]:
        """What is copied into pinned memory, one after the other: an image's number, its rows, where they go, and what
        is uploaded then, if anything."""
        pieces, sent = [], self._first
        for i, (place, at) in enumerate(places):
            row = place.strides[0]
            count = -(-PIECE // row)
            for top in range(0, len(place), count):
                rows = slice(top, min(top + count, len(place)))
                end, upload = self._pixels + at + rows.stop * row, None
                last = i == len(places) - 1 and rows.stop == len(place)
                if last or end - sent >= PIECE:
                    upload, sent = (self._there[sent:end], self._here[sent:end]), end
                pieces.append((i, rows, place[rows], upload))
        return pieces

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

    def upload(self) -> None:
        """Everything but the images."""
        there, here = self._rest
        there.copy_(here, non_blocking=True)
