# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Predicted against demonstrated, as the recording is read: sums per horizon step and joint, never the whole.

A prediction waits until the recording has passed its last action, then it is compared and forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from pi_vla_ros.replay.recorded import RecordedCommands
from pi_vla_ros.replay.thinned import Thinned
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk

WORST = 3  # moments kept
SHOWN = 300  # chunks kept for the curves


@dataclass(frozen=True)
class Moment:
    """An inference that was far off. score: mean absolute normalised error; pictures: slot -> JPEG."""

    stamp: float
    score: float
    pictures: dict[str, bytes] = field(repr=False)


@dataclass
class Sums:
    """Per horizon step and joint, (H, J) each: predictions compared, absolute and squared error, and the absolute error
    of an arm that had stood still since the observation."""

    count: np.ndarray
    absolute: np.ndarray
    squared: np.ndarray
    still: np.ndarray

    @classmethod
    def of(cls, horizon: int, joints: int) -> Sums:
        return cls(*(np.zeros((horizon, joints)) for _ in range(4)))


class PredictionErrors:
    """Units are the robot's: rad or m, for velocity actions per s. `scale` (joints,) makes them normalised."""

    def __init__(self, robot: RobotConfig, recorded: RecordedCommands, scale: np.ndarray):
        self.sums: Sums | None = None
        self.change = np.zeros(len(robot.joints)), np.zeros(len(robot.joints))  # between predictions: sum, count
        self.compared = 0
        self.worst: list[Moment] = []
        self.shown: Thinned[ActionChunk] = Thinned(SHOWN)
        self._recorded, self._scale = recorded, scale
        self._velocity_joints = np.array([j.action.kind == "velocity" for j in robot.joints])
        self._turns = np.array([j.continuous and j.action.kind == "position" for j in robot.joints])
        self._waiting: deque[tuple[ActionChunk, np.ndarray, dict[str, bytes]]] = deque()
        self._before: ActionChunk | None = None

    def add(self, chunk: ActionChunk, state: np.ndarray, pictures: dict[str, bytes]) -> None:
        """A prediction made in `state` (joints,); `pictures`: slot -> JPEG of what it saw."""
        if self.sums is None:
            self.sums = Sums.of(*chunk.actions.shape)
        self._waiting.append((chunk, state, pictures))
        self._compare_with_before(chunk)
        self.shown.add(chunk)

    def resolve(self, everything: bool = False) -> float:
        """Compare what the recording has passed. Returns the time s before which no command is needed any more."""
        while self._waiting:
            chunk, state, pictures = self._waiting[0]
            if not everything and chunk.stamp + len(chunk.actions) * chunk.dt > self._recorded.known:
                return chunk.stamp
            self._waiting.popleft()
            self._compare(chunk, state, pictures)
        return self._recorded.known

    def _compare(self, chunk: ActionChunk, state: np.ndarray, pictures: dict[str, bytes]) -> None:
        times = chunk.stamp + np.arange(len(chunk.actions) + 1) * chunk.dt
        positions = self._recorded.at(times)
        velocities = np.diff(positions, axis=0) / chunk.dt
        truth = np.where(self._velocity_joints, velocities, positions[:-1])
        known = np.isfinite(truth)
        if not known.any():
            return
        error = np.where(known, self._wrapped(chunk.actions - truth), 0.0)
        still = np.where(known, self._wrapped(np.where(self._velocity_joints, 0.0, state) - truth), 0.0)
        sums = self.sums
        sums.count += known
        sums.absolute += np.abs(error)
        sums.squared += error**2
        sums.still += np.abs(still)
        self.compared += 1
        score = float((np.abs(error) * self._scale).sum() / known.sum())
        if len(self.worst) < WORST or score > self.worst[-1].score:
            self._keep(Moment(chunk.stamp, score, pictures), chunk.dt * len(chunk.actions))

    def _keep(self, moment: Moment, apart: float) -> None:
        """The worst, none within `apart` s of a worse one: one mistake lasts for many predictions."""
        near = [m for m in self.worst if abs(m.stamp - moment.stamp) < apart]
        if any(m.score >= moment.score for m in near):
            return
        kept = [m for m in self.worst if m not in near] + [moment]
        self.worst = sorted(kept, key=lambda m: -m.score)[:WORST]

    def _compare_with_before(self, chunk: ActionChunk) -> None:
        """How far two consecutive predictions disagree about the same moments."""
        before, self._before = self._before, chunk
        if before is None:
            return
        at = (chunk.stamp - before.stamp) / chunk.dt + np.arange(len(chunk.actions))
        both = (at >= 0) & (at <= len(before.actions) - 1)
        if both.any():
            steps = np.arange(len(before.actions))
            old = np.stack([np.interp(at[both], steps, column) for column in before.actions.T], axis=1)
            total, count = self.change
            total += np.abs(self._wrapped(chunk.actions[both] - old)).mean(axis=0)
            count += 1

    def _wrapped(self, difference: np.ndarray) -> np.ndarray:
        """Joints that turn without end are never further apart than half a turn."""
        return np.where(self._turns, (difference + np.pi) % (2 * np.pi) - np.pi, difference)
