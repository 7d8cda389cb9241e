# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All inputs of a step in one block of memory, on the host (pinned) and on the GPU: numbers, words, images.

Images need not pass through the host's block: the graph begins with a kernel (`Arena.fetch`) that reads them where they
are, if that is pinned memory. Others are copied there first, large ones uploaded piece by piece meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from queue import SimpleQueue
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.engine.fused.frame_memory import FrameMemory
from pi_vla_ros.engine.fused.frames import Frames
from pi_vla_ros.engine.noise import Keys
from pi_vla_ros.kernels import fetch, resize
from pi_vla_ros.model.rtc import Chunking, Committed, Guidance

PIECE = 1 << 19  # bytes of images that are worth an upload of their own, beside which the host goes on
HELPERS = 2  # threads that copy larger images, too


class Piece(NamedTuple):
    """Images' numbers, rows of them and where they are copied to; what is uploaded then."""

    copies: list[tuple[int, slice, np.ndarray]]
    there: Tensor
    here: Tensor

    def fill(self, images: Sequence[np.ndarray]) -> None:
        for image, rows, to in self.copies:
            np.copyto(to, images[image][rows])  # lets other threads run

    def upload(self) -> None:
        self.there.copy_(self.here, non_blocking=True)


def _fill(images: Sequence[np.ndarray], left: Iterator[Piece], filled: SimpleQueue[Piece]) -> None:
    """Copies pieces as long as there are any; several threads may take them from `left`."""
    for piece in left:
        piece.fill(images)
        filled.put(piece)


class Arena:
    """host: NumPy views to write into; device: tensors that the kernels read; rtc: those of real-time chunking.

    table [V, W]: the token embedding, in ordinary memory of the host. The rows of a step's words are copied into the
    block, which alone is pinned: to pin 1 GiB takes time at start, and gives nothing to a host that gathers anyway."""

    def __init__(self, g, cameras: int, batch: int, prompt: int, device: torch.device, rtc: str, frames: Frames | None,
                 table: Tensor, stream: torch.cuda.Stream | None = None):  # fmt: skip
        """stream: that `fetch` is launched on."""
        size, count, pinned = g.vision.image, batch * cameras, device.type == "cuda"
        self._frames, self._stream = frames, stream
        # of four steps: that under way, the newest two of a camera (processing/early_frames.py), and those in the making
        self.memory = FrameMemory(4 * count, frames.largest, pinned) if frames else None
        target = {"target": (torch.float32, (batch, g.chunk, g.action_dim))}
        chunking = {
            "off": {},
            "guided": {**target, "weights": (torch.float32, (batch, g.chunk)), "most": (torch.float32, (batch,))},
            "trained": {**target, "delay": (torch.int32, (batch,))},
        }[rtc]
        if frames:
            pixels = {"records": (torch.int32, (count, resize.FIELDS)), "block": (torch.uint8, (frames.nbytes,))}
        else:
            pixels = {"images": (torch.float32, (count, 3, size, size))}
        self._table = table.view(torch.uint8).numpy()  # NumPy has no bf16
        parts = {
            "lengths": (torch.int32, (batch,)),
            "state": (torch.float32, (batch, g.action_dim)),
            "noise": (torch.float32, (batch, g.chunk, g.action_dim)),
            "keys": (torch.int64, (batch, 4)),
            "scale": (torch.float32, (batch,)),
            **chunking,
            "words": (torch.uint8, (batch * prompt, self._table.shape[1])),  # robot after robot
            **pixels,  # the last parts; the very last is uploaded as far as it is used
        }
        offsets, end = {}, 0
        for name, (dtype, shape) in parts.items():
            offsets[name] = end
            end += -(-torch.Size(shape).numel() * dtype.itemsize // 256) * 256
        first, *_, last = (next(iter(pixels)), *pixels)
        self._first, self._pixels = offsets[first], offsets[last]
        self._there = torch.zeros(end, dtype=torch.uint8, device=device)
        self._here = torch.zeros(end, dtype=torch.uint8, pin_memory=pinned)
        self._sources = torch.zeros(count, fetch.FIELDS, dtype=torch.int64, pin_memory=pinned)
        self._source = self._sources.numpy()

        def views(block: Tensor) -> dict[str, Tensor]:
            seen = {}
            for name, (dtype, shape) in parts.items():
                length = torch.Size(shape).numel() * dtype.itemsize
                seen[name] = block[offsets[name] : offsets[name] + length].view(dtype).view(shape)
            return seen

        self.device = SimpleNamespace(**views(self._there))
        self.device.words = self.device.words.view(table.dtype)
        self.host = SimpleNamespace(**{name: part.numpy() for name, part in views(self._here).items()})
        # float images, as `Frames.place` says of frames where they go: views, and their first bytes
        squares = () if frames else self.host.images
        self._squares = functools.cache(lambda n: [(to, i * to.nbytes) for i, to in enumerate(squares[:n])])
        self._placed = self._pieces = self._own = None
        self._helpers = ThreadPoolExecutor(HELPERS, "frames")
        words = offsets["words"]
        self._numbers = self._there[:words], self._here[:words]
        self._words = self._there[words : self._first], self._here[words : self._first]
        self._tokens = np.empty(0, np.int64)  # whose rows are there
        kind = {"guided": Guidance, "trained": Committed}.get(rtc)
        self.rtc = kind and kind(*(getattr(self.device, name) for name in chunking))

    def images(self, images: Sequence[np.ndarray]) -> bool:
        """(3, S, S) float32, or frames (H, W, 3) uint8 where there are `frames`: on their way when this returns, or for
        `fetch` to read. They stay as they are until the step has ended. Whether they are frames that need no resizing."""
        if self._frames:
            images, places = self._frames.place(images, self.host.records, self.host.block)
        else:
            places = self._squares(len(images))
        if places is not self._placed:
            self._lay_out(places)
        addresses = self._source[: len(images), 0]
        readable = [self.memory.address(image) for image in images] if self.memory else [0]
        if all(readable):
            addresses[:] = readable
        elif len(self._pieces) == 1:
            self._pieces[0].fill(images)
            addresses[:] = self._own
        else:
            addresses[:] = 0
            with torch.cuda.stream(self._stream):
                self._upload_pieces(images)
        return self._frames is not None and self._frames.square

    def fetch(self, n: int, *, pdl: bool) -> None:
        """Launches the kernel that reads the `n` images placed last, unless they were uploaded."""
        fetch.fetch(self._sources[:n], self._there.view(torch.int32), pdl=pdl)

    def _upload_pieces(self, images: Sequence[np.ndarray]) -> None:
        """While one piece is on its way the next is copied into pinned memory; many are shared out to whoever is awake:
        nothing waits for a helper that has not begun."""
        left, filled, sent = iter(self._pieces), SimpleQueue(), 0
        if len(self._pieces) > HELPERS:
            for _ in range(HELPERS):
                self._helpers.submit(_fill, images, left, filled)
        for piece in left:
            piece.fill(images)
            filled.put(piece)
            while not filled.empty():
                filled.get().upload()
                sent += 1
        for _ in self._pieces[sent:]:
            filled.get().upload()

    def _lay_out(self, places: Sequence[tuple[np.ndarray, int]]) -> None:
        """Where the images that come now are to go, until there are others."""
        self._placed, self._pieces = places, self._cut(places)
        self._own = [place.ctypes.data for place, _ in places]
        for source, (place, at) in zip(self._source, places, strict=False):
            source[1:] = (self._pixels + at) // fetch.WORD, -(-place.nbytes // fetch.WORD)
        begin = self._pixels + places[0][1] if places else self._first
        if self._first < begin:  # what says how to resize them
            with torch.cuda.stream(self._stream):
                self._there[self._first : begin].copy_(self._here[self._first : begin], non_blocking=True)

    def _cut(self, places: Sequence[tuple[np.ndarray, int]]) -> list[Piece]:
        """In the order of the images; small ones are one piece together."""
        pieces, copies, sent = [], [], self._pixels + places[0][1] if places else 0
        for i, (place, at) in enumerate(places):
            row = place.strides[0]
            count = -(-PIECE // row)
            for top in range(0, len(place), count):
                rows = slice(top, min(top + count, len(place)))
                end = self._pixels + at + rows.stop * row
                last = i == len(places) - 1 and rows.stop == len(place)
                copies.append((i, rows, place[rows]))
                if last or end - sent >= PIECE:
                    pieces.append(Piece(copies, self._there[sent:end], self._here[sent:end]))
                    copies, sent = [], end
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

    def upload(self, tokens: np.ndarray) -> None:
        """Everything but the images. tokens [B, L] int64, a new array: their words, unless they are there already."""
        there, here = self._numbers
        there.copy_(here, non_blocking=True)
        if not np.array_equal(tokens, self._tokens):
            # NumPy: a thread of PyTorch's that has to wake up takes longer than the rows; "clip": straight into `out`
            np.take(self._table, tokens.ravel(), axis=0, out=self.host.words[: tokens.size], mode="clip")
            there, here = (block[: tokens.size * self._table.shape[1]] for block in self._words)
            there.copy_(here, non_blocking=True)
            self._tokens = tokens
