# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Frames that are decoded as they arrive: between two steps there is time, in a step there is none."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from pi_vla_ros.processing import frames
from pi_vla_ros.processing.frames import Empty, decode

KEPT = 2  # of a camera: a set may have the frame before its newest one
UNUSED = 4  # frames of a camera in a row that no step asked for: then none is decoded until one asks again


class EarlyFrames:
    """Begins on a frame when it arrives, and has it when a step asks. Where a process may use few cores it begins when
    it is asked: helpers would take them from the control loop.

    empty: room for frames, asked from helpers' threads."""

    def __init__(self, empty: Empty):
        self._empty, self._lock = empty, threading.Lock()
        self._begun: dict[str, deque[tuple[Any, Future]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._unused: Counter[str] = Counter()

    def arrived(self, slot: str, message: Any) -> None:
        """sensor_msgs/Image or CompressedImage of camera `slot`. Never raises for what is in it."""
        with self._lock:
            if frames.CORES < frames.MANY or self._unused[slot] >= UNUSED:
                return
            self._unused[slot] += 1
            for _, older in self._begun[slot]:
                older.cancel()  # helpers that are behind leave out what is not the newest any more
            self._begun[slot].append((message, frames.helpers.submit(self._own, message)))

    def of(self, messages: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """slot -> message to slot -> frame, as `decode_all` has it. Raises FrameError."""
        with self._lock:
            # what no helper has begun, or is not to begin, is decoded with the rest
            begun = {slot: f for slot, m in messages.items() for n, f in self._begun[slot] if n is m and not f.cancel()}
            for slot in messages:
                self._unused[slot] = 0
        rest = frames.decode_all({slot: m for slot, m in messages.items() if slot not in begun}, self._empty)
        return {slot: begun[slot].result() if slot in begun else rest[slot] for slot in messages}

    def _own(self, message: Any) -> np.ndarray:
        """Not a view of the message: what lies in `empty`'s memory need not be copied by the step."""
        frame = decode(message, self._empty)
        if frame.flags.writeable:
            return frame
        own = self._empty(*frame.shape[:2])
        np.copyto(own, frame)
        return own
