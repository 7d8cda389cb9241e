# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A sample of bounded size of something that may go on for hours."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Thinned(Generic[T]):
    """Some of what is added, evenly spread: when there are too many, every other is dropped. items: what is kept."""

    def __init__(self, most: int):
        self.items: list[T] = []
        self._most, self._every, self._seen = most, 1, 0

    def add(self, item: T) -> None:
        if self._seen % self._every == 0:
            self.items.append(item)
        self._seen += 1
        if len(self.items) > self._most:
            self.items, self._every = self.items[::2], 2 * self._every
