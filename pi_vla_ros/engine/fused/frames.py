# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Camera frames as they come, uploaded as bytes and resized inside the graph (kernels/resize.py)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.kernels.resize import resize
from pi_vla_ros.processing.images import PADDING, Resize, fit, image_tensor
from pi_vla_ros.processing.taps import antialiased, bilinear

ALIGNED = 16  # bytes


class Frames:
    """Packs the images of a step into one block of bytes, and launches what makes the square ones of them.

    Frames that all have the model's size already are read as they are: `square` says so of the images placed last.

    A frame may have any size up to `largest` (height, width), in either orientation, and may change it from step to
    step. A larger one is resized on the host: slower, told once.
    """

    def __init__(self, size: int, mode: Resize, largest: tuple[int, int], images: int, device: torch.device):
        self._size, self._mode, self._largest = size, mode, largest
        self._exact = mode in ("pil", "fast")
        self._side = max(*largest, size)
        self.largest = max(3 * largest[0] * largest[1], 3 * size * size)  # bytes of a frame
        weights = 2 * (-(-self._side // size)) + 2
        tables = 2 * 4 * (1 + weights) * size
        self.nbytes = images * (max(self.largest + tables, 12 * size * size) + 4 * ALIGNED)
        between = torch.uint8 if self._exact else torch.float32
        self._between = torch.empty(images, self._side * size * 3, dtype=between, device=device)
        self._out = torch.empty(images, 3, size, size, device=device)
        self._told = self.square = False
        self._sizes: list = []  # of the images that came last, which of them are too large, where they lie
        self._too_large: list[int] = []
        self._places: list[tuple[np.ndarray, int]] = []

    def place(
        self, images: Sequence[np.ndarray], records: np.ndarray, block: np.ndarray
    ) -> tuple[Sequence[np.ndarray], list[tuple[np.ndarray, int]]]:
        """images: (H, W, 3) uint8 frames, or (3, S, S) float32 in [-1, 1] -> what is to be copied, and where: views of
        `block` and their first bytes, in order. Records and tables are written, unless the last images had these sizes.
        """
        sizes = [(image.shape, image.dtype) for image in images]
        known = sizes == self._sizes
        if not known:
            self._too_large = [
                i for i, (shape, dtype) in enumerate(sizes) if dtype == np.uint8 and not self._takes(*shape)
            ]
        for i in self._too_large:
            images = [*images[:i], self._on_host(images[i]), *images[i + 1 :]]
        if not known:
            self._sizes, self._places = sizes, self._lay_out(images, records, block)
        return images, self._places

    def _lay_out(self, images: Sequence[np.ndarray], records: np.ndarray, block: np.ndarray) -> list:
        self.square = all(image.dtype == np.uint8 and image.shape[:2] == (self._size,) * 2 for image in images)
        if self.square:
            count = 3 * self._size**2
            return [(block[i * count :][:count].reshape(image.shape), i * count) for i, image in enumerate(images)]
        end = 0

        def room(data: np.ndarray) -> tuple[np.ndarray, int]:
            nonlocal end
            at, end = end, end + -(-data.nbytes // ALIGNED) * ALIGNED
            return block[at : at + data.nbytes].view(data.dtype).reshape(data.shape), at

        tables_at: dict[tuple[int, int], list[int]] = {}
        for shape in {image.shape[:2] for image in images if image.dtype == np.uint8}:
            tables_at[shape] = []
            for table in _plan(*shape, self._size, self._exact)[1]:
                to, at = room(table)
                to[...] = table
                tables_at[shape].append(at // 4)
        places = [room(image) for image in images]
        for record, image, (_, at) in zip(records, images, places, strict=False):
            record[:] = 0
            record[-1] = at
            if image.dtype == np.uint8:
                shape = image.shape[:2]
                inside, tables = _plan(*shape, self._size, self._exact)
                record[:-1] = (1, *shape, *inside, *(len(table) - 1 for table in tables), *tables_at[shape])
        return places

    def launch(self, records: Tensor, block: Tensor, n: int, square: bool, *, pdl: bool) -> Tensor:
        """The first `n` images, [n, 3, S, S] fp32; `square` ones [n, S, S, 3] uint8."""
        if square:
            return block[: 3 * self._size**2 * n].view(n, self._size, self._size, 3)
        out = self._out[:n]
        resize(records[:n], block, self._between, out, PADDING[self._mode], pdl=pdl)
        return out

    def _takes(self, height: int, width: int, _channels: int) -> bool:
        return 3 * height * width <= self.largest and max(height, width) <= self._side

    def _on_host(self, image: np.ndarray) -> np.ndarray:
        if not self._told:
            self._told = True
            h, w = self._largest
            warnings.warn(
                f"a camera frame of {image.shape[1]} x {image.shape[0]} is larger than {w} x {h}, the largest that the "
                "GPU was prepared to resize (RuntimeConfig.largest_frame): it is resized on the CPU, which takes longer",
                stacklevel=2,
            )
        return image_tensor(image, self._size, self._mode).numpy()


@lru_cache(maxsize=64)
def _plan(height: int, width: int, size: int, exact: bool) -> tuple[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
    """Where a frame lies in the square, and the tables of its two passes."""
    h, w, top, left = fit(height, width, size)
    taps = antialiased if exact else bilinear
    return (h, w, top, left), (taps(width, w), taps(height, h))
