# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Joining a new reference to the current motion: the difference at the join fades out, C2, within a window."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.limiter import Limits

# Share of the velocity and acceleration limits that closing a difference may take: the motion itself needs the rest.
SHARE = 0.6
# Extremes of the quintics below on a window of 1: speed and acceleration from dp = 1, acceleration from dv = 1.
SPEED_OF_POSITION, ACCELERATION_OF_POSITION, ACCELERATION_OF_VELOCITY = 1.875, 5.774, 3.949


def windows(dp: np.ndarray, dv: np.ndarray, limits: Limits, shortest: float) -> np.ndarray:
    """Per joint, the window (joints,) in s within which a difference can fade out under the limits; a shorter one
    would make the limiter chase a target that no joint can follow, and overshoot."""
    speed, acceleration = SHARE * limits.velocity, SHARE * limits.acceleration
    dp, dv = np.abs(dp), np.abs(dv)
    needed = np.maximum(SPEED_OF_POSITION * dp / speed, np.sqrt(ACCELERATION_OF_POSITION * dp / acceleration))
    return np.maximum(shortest, np.maximum(needed, ACCELERATION_OF_VELOCITY * dv / acceleration))


def fade(
    dp: np.ndarray, dv: np.ndarray, da: np.ndarray, times: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The quintic that starts at (dp, dv, da) (joints,) and is zero, with two derivatives, from `window` s on.

    times: (K,) s since the join; window: (joints,) s. Returns value and rate, each (K, joints).
    """
    s = np.clip(times[:, None] / window, 0.0, 1.0)
    value = (
        dp * (1 + s**3 * (-10 + s * (15 - 6 * s)))
        + dv * window * s * (1 + s**2 * (-6 + s * (8 - 3 * s)))
        + da * window**2 * s**2 * (0.5 + s * (-1.5 + s * (1.5 - 0.5 * s)))
    )
    rate = (
        dp / window * s**2 * (-30 + s * (60 - 30 * s))
        + dv * (1 + s**2 * (-18 + s * (32 - 15 * s)))
        + da * window * s * (1 + s * (-4.5 + s * (6 - 2.5 * s)))
    )
    return value, rate
