# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From a coherent set to a chunk, beside the ticks: a tick hands over a snapshot and goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from pi_vla_ros.observation_buffer import Snapshot
from pi_vla_ros.processing.early_frames import EarlyFrames
from pi_vla_ros.processing.frames import FrameError
from pi_vla_ros.types import ActionChunk, Observation

PATIENCE = 5.0  # s that an inference gets to end when the node does

Done = Callable[[ActionChunk, str], None]  # (chunk, prompt)
Failed = Callable[[str, str], None]  # (reason, detail)
FramesOf = Callable[[Mapping[str, Any]], dict[str, np.ndarray]]  # slot -> image message to slot -> frame


class Infers(Protocol):
    """What is needed of a Policy."""

    def infer(self, observation: Observation, previous: ActionChunk | None, delay: float) -> ActionChunk: ...

    def check_prompt(self, prompt: str) -> None: ...

    def empty_frame(self, height: int, width: int) -> np.ndarray: ...


class Inference(Protocol):
    """One snapshot at a time; what comes of it is told to `done` or `failed`, which may not raise."""

    @property
    def busy(self) -> bool: ...

    def expect(self, slot: str, message: Any) -> None:
        """A frame of camera `slot` arrived, which a snapshot may have."""

    def submit(self, snapshot: Snapshot, prompt: str, previous: ActionChunk | None, delay: float) -> None:
        """Start on a snapshot; only while not `busy`. previous, delay: as `Policy.infer` takes them."""

    def close(self) -> bool:
        """False when what is running does not end: the policy must not be touched any more."""


def observe(snapshot: Snapshot, prompt: str, frames_of: FramesOf) -> Observation:
    """Raises FrameError on an image that cannot be read."""
    frames = frames_of({slot: message for slot, (_, message) in snapshot.frames.items()})
    return Observation(frames, snapshot.state, prompt, snapshot.stamp)


def failure(error: Exception) -> tuple[str, str]:
    """Reason and detail. Whatever it is: the node survives, the arm ends its trajectory and holds."""
    if isinstance(error, FrameError):
        return "image_unreadable", str(error)
    return "inference_failed", f"{type(error).__name__}: {error}"


class InferenceThread:
    """An Inference in its own thread, which also calls done(chunk, prompt) and failed(reason, detail)."""

    def __init__(self, policy: Infers, done: Done, failed: Failed):
        self._policy, self._done, self._failed = policy, done, failed
        self._frames = EarlyFrames(policy.empty_frame)
        self._work: tuple[Snapshot, str, ActionChunk | None, float] | None = None
        self._wake, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._work is not None

    def expect(self, slot: str, message: Any) -> None:
        self._frames.arrived(slot, message)

    def submit(self, snapshot: Snapshot, prompt: str, previous: ActionChunk | None, delay: float) -> None:
        with self._wake:
            self._work = (snapshot, prompt, previous, delay)
            self._wake.notify()

    def close(self) -> bool:
        """Finish what is running, then end. A hung GPU may keep it: then it is left behind, and nobody hears of it."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._work or self._closing)
                if self._closing:
                    return
            try:
                self._infer(*self._work)
            finally:
                self._work = None

    def _infer(self, snapshot: Snapshot, prompt: str, previous: ActionChunk | None, delay: float) -> None:
        try:
            chunk = self._policy.infer(observe(snapshot, prompt, self._frames.of), previous, delay)
        except Exception as error:
            tell, told = self._failed, failure(error)
        else:
            tell, told = self._done, (chunk, prompt)
        if not self._closing:
            tell(*told)
