# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Judging a row of commands as it comes, block by block: jerk, tracking error, limits.

Derivatives are differences between commands, at the rate of the commands: what a drive sees. The arm is a first-order
actuator that holds a command until the next: it follows with time constant tau.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.motion_bench.methods import KINDS

LEEWAY = 1e-4  # of a limit: rounding


class Judge:
    def __init__(self, limits: Limits, hz: float, tau: float, settle: float):
        """settle: time s before which nothing counts."""
        self._limits, self._hz, self._settle = limits, hz, settle
        self._share = 1 - np.exp(-1 / (hz * tau))
        self._filter: np.ndarray | None = None
        self._known = [np.zeros((0, 0)), np.zeros((0, 0))]  # the last three rows of commands, and of the arm
        self._squares, self._most, self._count = np.zeros(2), np.zeros(2), 0  # of the jerk of each
        self._error, self._error_most, self._judged = 0.0, 0.0, 0
        self._beyond = np.zeros(len(KINDS), dtype=int)

    def add(self, times: np.ndarray, commands: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """The next rows: times (K,), the rest (K, joints). Returns the arm's positions."""
        if not len(times):
            return commands
        if self._filter is None:  # the arm begins where it is told to be
            self._filter = commands[:1].copy()
            self._known = [np.repeat(commands[:1], 3, axis=0)] * 2
        arm, self._filter = lfilter([0.0, self._share], [1.0, self._share - 1.0], commands, axis=0, zi=self._filter)
        rows = [np.vstack([known, new]) for known, new in zip(self._known, (commands, arm), strict=True)]
        self._known = [r[-3:] for r in rows]
        counted = times >= self._settle
        if counted.any():
            jerk = [np.diff(r, n=3, axis=0)[counted] * self._hz**3 for r in rows]
            self._squares += [float((j * j).sum()) for j in jerk]
            self._most = np.maximum(self._most, [float(np.abs(j).max()) for j in jerk])
            self._count += jerk[0].size
            error = (arm - truth)[counted]
            self._error += float((error * error).sum())
            self._error_most = max(self._error_most, float(np.abs(error).max()))
            self._judged += error.size
            self._watch_limits(rows[0], counted)
        return arm

    def report(self) -> dict:
        """rad or m, s."""
        commands, arm = (
            {"jerk_rms": float(np.sqrt(self._squares[k] / self._count)), "jerk_max": float(self._most[k])}
            for k in range(2)
        )
        arm |= {
            "tracking_error_rms": float(np.sqrt(self._error / self._judged)),
            "tracking_error_max": self._error_most,
        }
        beyond = dict(zip(KINDS, self._beyond.tolist(), strict=True))
        return {"samples": self._judged, "commands": commands, "arm": arm, "commands_beyond_limits": beyond}

    def _watch_limits(self, rows: np.ndarray, counted: np.ndarray) -> None:
        limits, now = self._limits, rows[3:][counted]
        self._beyond[0] += int(((now < limits.low - LEEWAY) | (now > limits.high + LEEWAY)).sum())
        for order, limit in enumerate((limits.velocity, limits.acceleration, limits.jerk), start=1):
            change = np.abs(np.diff(rows, n=order, axis=0)[3 - order :][counted]) * self._hz**order
            self._beyond[order] += int((change > limit * (1 + LEEWAY)).sum())
