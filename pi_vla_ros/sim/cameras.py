# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Cameras that run freely, each at its own rate, drawn one after the other by one thread."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from pi_vla_ros.sim.faults import Faults
from pi_vla_ros.sim.realtime import Snapshot
from pi_vla_ros.sim.scene import Scene
from pi_vla_ros.sim.view import View

JITTER = 0.002  # s, standard deviation of a frame's time around its regular time
FARTHEST = 3 * JITTER  # s, no frame is farther from it

Send = Callable[[str, float, np.ndarray], None]


@dataclass(order=True)
class _Frame:
    """A frame on its way. due: s, monotonic. stamp: s, ROS clock: the state that was drawn."""

    due: float
    number: int
    slot: str = field(compare=False)
    stamp: float = field(compare=False)
    pixels: np.ndarray = field(compare=False)


@dataclass
class _Schedule:
    """When a camera takes its frames: regular, with a phase and jitter of its own."""

    period: float
    phase: float
    rng: np.random.Generator
    taken: int = 0
    skipped: int = 0
    due: float = 0.0  # s since start

    def __post_init__(self):
        self._plan()

    def advance(self, now: float) -> None:
        """To the next frame. Those that `now` has passed already are skipped, never caught up."""
        self.taken += 1
        missed = max(0, int((now - self.phase) / self.period) - self.taken)
        self.skipped += missed
        self.taken += missed
        self._plan()

    def _plan(self) -> None:
        jitter = np.clip(self.rng.normal(0, JITTER), -FARTHEST, FARTHEST)
        self.due = self.phase + self.taken * self.period + float(jitter)


class Cameras:
    """Draws and sends frames until told to stop. OpenGL lives in the thread of `run`."""

    def __init__(
        self,
        scene: Scene,
        rates: Mapping[str, float],
        size: tuple[int, int],
        newest: Callable[[], Snapshot],
        send: Send,
        faults: Faults | None = None,
        seed: int = 0,
    ):
        """rates: slot -> Hz. size: (width, height). newest: gives the state to draw.

        send: takes slot, stamp (s, ROS clock) and pixels, (height, width, 3) uint8 RGB.
        """
        self._scene, self._size, self._newest, self._send = scene, size, newest, send
        self._faults = faults or Faults()
        self._schedules = {}
        for index, (slot, hz) in enumerate(rates.items()):
            rng = np.random.default_rng([seed, index])
            self._schedules[slot] = _Schedule(1 / hz, FARTHEST + rng.uniform(0, 1 / hz), rng)
        self._queue: list[_Frame] = []
        self._last: dict[str, _Frame] = {}
        self._number = count()
        self.ready = threading.Event()  # drawing works and is warm

    @property
    def skipped(self) -> dict[str, int]:
        """slot -> frames that there was no time to draw."""
        return {slot: schedule.skipped for slot, schedule in self._schedules.items()}

    def run(self, stop: threading.Event) -> None:
        view = View(self._scene, *self._size)
        try:
            for slot in self._schedules:  # the first drawing compiles shaders: not on the clock
                view.draw(self._newest().world, slot)
            self.ready.set()
            while self._newest().elapsed == 0 and not stop.wait(0.001):
                pass  # the control loop has not begun: there is nothing new to see
            start = time.monotonic()
            while not stop.is_set():
                slot, schedule = min(self._schedules.items(), key=lambda item: item[1].due)
                wake = min([start + schedule.due] + [frame.due for frame in self._queue[:1]])
                if stop.wait(max(0.0, wake - time.monotonic())):
                    break
                now = time.monotonic()
                if self._queue and self._queue[0].due <= now:
                    frame = heapq.heappop(self._queue)
                    self._send(frame.slot, frame.stamp, frame.pixels)
                elif start + schedule.due <= now:
                    self._take(view, slot)
                    schedule.advance(time.monotonic() - start)
        finally:
            view.close()

    def _take(self, view: View, slot: str) -> None:
        """One frame of `slot`, through whatever is wrong with the camera."""
        state = self._newest()

        def wrong(kind: str):
            return self._faults.camera(kind, slot, state.elapsed)

        if wrong("drop"):
            return
        last, stamp = self._last.get(slot), state.stamp
        if last is not None and wrong("repeat"):
            stamp, pixels = last.stamp, last.pixels
        elif last is not None and stamp == last.stamp:
            return  # the arm's loop was held up: there is nothing new to see, and no camera gives one stamp twice
        elif last is not None and wrong("freeze"):
            pixels = last.pixels
        else:
            pixels = view.draw(state.world, slot)
        due = time.monotonic()
        if delay := wrong("delay"):
            due += delay.seconds
        if last is not None:
            due = max(due, last.due)  # frames of one camera never overtake each other
        frame = _Frame(due, next(self._number), slot, stamp, pixels)
        self._last[slot] = frame
        heapq.heappush(self._queue, frame)
