# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Inference in its own thread: a tick hands over a snapshot and goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pi_vla_ros.observation_buffer import Snapshot
from pi_vla_ros.policy import Policy
from pi_vla_ros.processing.frames import FrameError, decode
from pi_vla_ros.types import ActionChunk, Observation


class InferenceThread:
    """Runs `policy.infer` for one snapshot at a time.

    done(chunk, prompt) and failed(reason, detail) are called from this thread; neither may raise.
    """

    def __init__(
        self,
        policy: Policy,
        done: Callable[[ActionChunk, str], None],
        failed: Callable[[str, str], None],
    ):
        self._policy, self._done, self._failed = policy, done, failed
        self._work: tuple[Snapshot, str, ActionChunk | None, float] | None = None
        self._wake, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._work is not None

    def submit(self, snapshot: Snapshot, prompt: str, previous: ActionChunk | None, delay: float) -> None:
        """Start on a snapshot; only while not `busy`. previous, delay: as `Policy.infer` takes them."""
        with self._wake:
            self._work = (snapshot, prompt, previous, delay)
            self._wake.notify()

    def close(self) -> None:
        """Finish what is running, then end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

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
            images = {slot: decode(message) for slot, (_, message) in snapshot.frames.items()}
            observation = Observation(images, snapshot.state, prompt, snapshot.stamp)
            chunk = self._policy.infer(observation, previous, delay)
        except FrameError as error:
            self._failed("image_unreadable", str(error))
        except Exception as error:  # whatever it is: the node survives, the arm ends its trajectory and holds
            self._failed("inference_failed", f"{type(error).__name__}: {error}")
        else:
            self._done(chunk, prompt)
