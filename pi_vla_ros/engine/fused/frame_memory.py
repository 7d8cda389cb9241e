# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Room for camera frames in memory that the GPU reads by itself."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch

from pi_vla_ros.kernels.fetch import WORD

LINE = 64  # bytes; a room begins and ends with a cache line


class FrameMemory:
    """Rooms for `count` frames of up to `nbytes`, pinned once, here: that takes milliseconds.

    Whoever decodes a frame into one saves the step a copy. A room is free again when its frame and all views of it are
    gone."""

    def __init__(self, count: int, nbytes: int, pinned: bool):
        self._room = -(-nbytes // LINE) * LINE
        self._memory = torch.zeros(count * self._room, dtype=torch.uint8, pin_memory=pinned).numpy()
        self._begin = self._memory.ctypes.data
        self._free = deque(range(count))

    def empty(self, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8 to be written; in ordinary memory where no room is large enough, or none is free."""
        shape = height, width, 3
        nbytes = 3 * height * width
        try:
            room = self._free.pop() if nbytes <= self._room else None
        except IndexError:
            room = None
        if room is None:
            return np.empty(shape, np.uint8)
        # from a memoryview: NumPy names this very array, not self._memory, as what all views of it live on
        flat = np.frombuffer(memoryview(self._memory)[room * self._room :][:nbytes], np.uint8)
        weakref.finalize(flat, self._free.append, room).atexit = False
        return flat.reshape(shape)

    def address(self, frame: np.ndarray) -> int:
        """Where the GPU can read the frame as a whole, in words; 0: nowhere."""
        at = frame.__array_interface__["data"][0]
        inside = self._begin <= at and at + frame.nbytes <= self._begin + len(self._memory)
        return at if inside and at % WORD == 0 and frame.flags.c_contiguous else 0
