# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A clock that ticks at absolute deadlines, and what it measured of itself."""

from __future__ import annotations

import time

import numpy as np


class Pacer:
    """Waits for the next tick of `hz`. A tick that is missed is skipped, never made up for by a burst."""

    def __init__(self, hz: float, clock=time.monotonic, sleep=time.sleep):
        self._period, self._clock, self._sleep = 1.0 / hz, clock, sleep
        self._next = clock() + self._period

    def wait(self) -> int:
        """Sleep until the next tick; returns the number of ticks that were missed before it."""
        now = self._clock()
        missed = max(0, int((now - self._next) / self._period))
        self._next += missed * self._period
        if self._next > now:
            self._sleep(self._next - now)
        self._next += self._period
        return missed


class Intervals:
    """The last intervals between events, ms, and their percentiles."""

    def __init__(self, keep: int):
        self._ring = np.zeros(keep)
        self._count = 0
        self._last: float | None = None
        self.longest = 0.0

    def mark(self, now: float) -> None:
        """An event at `now`, s."""
        if self._last is not None:
            interval = 1e3 * (now - self._last)
            self._ring[self._count % len(self._ring)] = interval
            self._count += 1
            self.longest = max(self.longest, interval)
        self._last = now

    def pause(self) -> None:
        """The next event starts anew: a gap that was meant is no interval."""
        self._last = None

    def percentiles(self) -> tuple[float, float, float, float]:
        """p50, p99 and p99.9 of what is kept, and the longest ever, ms; zeros before the first interval."""
        kept = self._ring[: min(self._count, len(self._ring))]
        if not len(kept):
            return 0.0, 0.0, 0.0, 0.0
        p50, p99, p999 = np.percentile(kept, (50, 99, 99.9)).tolist()
        return p50, p99, p999, self.longest
