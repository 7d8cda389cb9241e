# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy node's side of the streamer: start the process, offer trajectories, see what it did."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.types import Trajectory

ANSWER = 0.1  # s that the streamer may take to answer an offer before it counts as refused
START = 20.0  # s that the process may take to start


class StreamError(RuntimeError):
    """The streamer process does not run."""


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """What the streamer publishes, where, how often.

    names:  of the trajectory's columns; axes: column -> axis of the twist, for those that are no joints.
    topic:  of the joints' commands, twist_topic: of the axes', both absolute; frame: of the twist.
    hz:     of each; message: one of `commands.TYPES`; cpu: core to run on, or any.
    limits: that every command keeps.
    """

    node: str
    names: tuple[str, ...]
    topic: str
    hz: float
    limits: Limits
    message: str = "float64_multi_array"
    axes: dict[int, str] = dataclasses.field(default_factory=dict)
    twist_topic: str = ""
    frame: str = ""
    cpu: int | None = None
    sim_time: bool = False

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=np.ndarray.tolist)

    @classmethod
    def of(cls, text: str) -> StreamSpec:
        data = json.loads(text)
        axes = {int(column): axis for column, axis in data.pop("axes").items()}
        limits = Limits(**{name: np.array(values) for name, values in data.pop("limits").items()})
        return cls(names=tuple(data.pop("names")), axes=axes, limits=limits, **data)


class Stream:
    """Owns the streamer process. Start it before CUDA: it must not inherit anything of it."""

    def __init__(self, spec: StreamSpec):
        self._board = TrajectoryBoard(len(spec.names))
        command = [sys.executable, "-m", "pi_vla_ros.ros.streamer"]
        command += ["--descriptor", str(self._board.descriptor), "--parent", str(os.getpid()), "--spec", spec.text()]
        self._process = subprocess.Popen(command, pass_fds=[self._board.descriptor], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START
        while not self._board.beat:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise StreamError("the streamer process did not start; its error stands above")
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def bridged(self) -> int:
        """Commands that the final limiter replaced: the clock was set, or a trajectory was not what it should be."""
        return self._board.bridged

    @property
    def sent(self) -> int:
        """Commands published so far."""
        return self._board.sent

    @property
    def intervals_ms(self) -> tuple[float, float, float, float]:
        """p50, p99, p99.9 and longest interval between commands."""
        return self._board.intervals_ms

    def play(self, playing: bool) -> None:
        """Publish or be silent."""
        self._board.play(playing)

    def offer(self, trajectory: Trajectory, join: int) -> bool:
        """Hand over a trajectory; False when the streamer was already past the join, or does not answer: then the
        offer is taken back, so that both sides mean the same motion when it wakes up."""
        generation = self._board.write(trajectory, join)
        if not self._answered(generation):
            self._board.withdraw()
            self._answered(generation)  # it may have been about to take it
        return self._board.taken == generation

    def _answered(self, generation: int) -> bool:
        deadline = time.monotonic() + ANSWER
        while time.monotonic() < deadline and self.alive:
            if generation in (self._board.taken, self._board.refused):
                return True
            time.sleep(0.0005)
        return False

    def close(self) -> None:
        """End the process (it brakes nothing: deactivate first) and free the memory."""
        self._board.ask_to_close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._board.close()
