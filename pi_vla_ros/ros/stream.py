# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy node's side of the streamer: start the process, offer trajectories, see what it did."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.types import Trajectory

ANSWER = 0.1  # s that the streamer may take to answer an offer before it counts as refused
START = 20.0  # s that the process may take to start


class StreamError(RuntimeError):
    """The streamer process does not run."""


class Stream:
    """Owns the streamer process. Start it before CUDA: it must not inherit anything of it."""

    def __init__(self, joints: int, topic: str, hz: float, node_name: str, sim_time: bool):
        self._board = TrajectoryBoard(joints)
        command = [sys.executable, "-m", "pi_vla_ros.ros.streamer"]
        command += ["--descriptor", str(self._board.descriptor), "--joints", str(joints)]
        command += ["--parent", str(os.getpid())]
        command += ["--topic", topic, "--rate", str(hz), "--name", node_name]
        if sim_time:
            command.append("--sim-time")
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
    def sent(self) -> int:
        """Commands published so far."""
        return self._board.sent

    @property
    def intervals_ms(self) -> tuple[float, float, float]:
        """p50, p99 and longest interval between commands."""
        return self._board.intervals_ms

    def play(self, playing: bool) -> None:
        """Publish or be silent."""
        self._board.play(playing)

    def offer(self, trajectory: Trajectory, join: int) -> bool:
        """Hand over a trajectory; False when the streamer was already past the join, or does not answer."""
        generation = self._board.write(trajectory, join)
        deadline = time.monotonic() + ANSWER
        while time.monotonic() < deadline and self.alive:
            if self._board.taken == generation:
                return True
            if self._board.refused == generation:
                return False
            time.sleep(0.0005)
        return self._board.taken == generation

    def close(self) -> None:
        """End the process (it brakes nothing: deactivate first) and free the memory."""
        self._board.ask_to_close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._board.close()
