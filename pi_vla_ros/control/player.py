# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What to command now: plays the trajectory on a board and decides which offers to take."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.types import Trajectory


class Player:
    """An offer is taken only before its join, where old and new agree: there is never a step between two commands. That
    goes for the first one, too: a process that slept through the rest at the measured state, and then through the join
    of the motion that was offered over it, would begin in the middle of that motion. One that is not finite throughout
    is never taken."""

    def __init__(self, board: TrajectoryBoard, guard: Guard):
        self._board, self._guard = board, guard
        self._seen = 0
        self._current: Trajectory | None = None

    def command(self, now: float, steady: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions and velocities, each (joints,), for time `now`, or None when nothing is to be commanded: what moves
        when it is silenced comes to rest first. steady: s on a clock that nobody sets."""
        if not self._board.playing:
            self._current = None
            return self._guard.stop(steady)
        if self._board.generation != self._seen:
            self._consider(now)
        return None if self._current is None else self._guard.command(self._current, now, steady)

    def remaining(self, now: float) -> float:
        """s until the motion is at rest; 0 when it is, or when there is none."""
        return 0.0 if self._current is None else max(0.0, self._current.end - now)

    def _consider(self, now: float) -> None:
        offer = self._board.read()
        if offer is None:  # being written: the next tick sees it whole
            return
        self._seen, trajectory, join = offer
        finite = np.isfinite(trajectory.positions).all() and np.isfinite(trajectory.velocities).all()
        if finite and now <= join * trajectory.step:
            self._current = trajectory
            self._board.take(self._seen)
        else:
            self._board.refuse(self._seen)
