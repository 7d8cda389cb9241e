# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Joining a new chunk to what was wanted before: a C2 hand-over within a window.

The result lies between the two at every moment, whatever their slopes are: a rough policy cannot wind it up. With a
new chunk every few milliseconds each moment is a weighted mean of what the last chunks said about it.
"""

from __future__ import annotations

import numpy as np

from pi_vla_ros.control.limiter import Limits

# Share of the velocity and acceleration limits that one hand-over may take. Chunks come faster than windows end, and
# hand-overs on top of each other are steeper than each alone: with a chunk every 33 ms a jump of the policy's mind
# then takes up to 0.9 of the limits, and nothing is clipped.
SHARE = 0.25
# Largest slope and curvature of the step from 0 to 1 on a window of 1.
SLOPE, CURVATURE = 1.875, 5.774


def windows(difference: np.ndarray, limits: Limits, shortest: float) -> np.ndarray:
    """Per joint, the window (joints,) in s in which `difference` (joints,) can be closed under the limits."""
    gap = np.abs(difference)
    by_speed = SLOPE * gap / (SHARE * limits.velocity)
    by_acceleration = np.sqrt(CURVATURE * gap / (SHARE * limits.acceleration))
    return np.maximum(shortest, np.maximum(by_speed, by_acceleration))


def hand_over(
    old: tuple[np.ndarray, np.ndarray], new: tuple[np.ndarray, np.ndarray], times: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """old, new: positions and rates, each (K, joints); times: (K,) s since the join; window: (joints,) s.

    Returns positions and rates that are old's at the join and new's from the window's end on, with two derivatives.
    """
    s = np.clip(times[:, None] / window, 0.0, 1.0)
    share = s**3 * (10 + s * (-15 + 6 * s))
    slope = s**2 * (30 + s * (-60 + 30 * s)) / window
    difference = new[0] - old[0]
    return old[0] + share * difference, old[1] + share * (new[1] - old[1]) + slope * difference
