# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From an acceleration-limited motion to one whose acceleration has no steps: the mean over a short window.

What is commanded at a moment is the mean of the limited motion over the window of T seconds before it. A mean lies
among what it is made of, so range, speed and acceleration limits still hold. Its acceleration changes by

    (a(t) − a(t − T)) / T  <=  2·A / T  =  the jerk limit,   with T = 2·A / J.

Nothing has to be done at a join: the window is part of the motion, so position, velocity and acceleration go on
through it. The mean is T/2 late; whoever makes the motion knows the future and asks for it T/2 earlier.

The mean of a motion with constant acceleration in each step is a cubic in each step, so its knots say all of it.
"""

from __future__ import annotations

import numpy as np

from pi_vla_ros.types import Trajectory


def smooth(motion: Trajectory, first: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (knots, joints) of the mean of `motion` over `window` steps, from tick `first` on until
    it rests. `motion` has constant acceleration in each step and rests before its first and after its last knot."""
    h, p, v = motion.step, motion.positions, motion.velocities
    lead = max(0, motion.first - (first - window))  # ticks of rest before the motion that a window reaches back to
    p = np.vstack([np.repeat(p[:1], lead, axis=0), p, np.repeat(p[-1:], window, axis=0)])
    v = np.vstack([np.zeros((lead, p.shape[1])), v, np.zeros((window, p.shape[1]))])
    skip = first - window - (motion.first - lead)
    p, v = p[skip:], v[skip:]  # from tick first - window on
    means = p[:-1] + h * (2 * v[:-1] + v[1:]) / 6  # of each step
    means -= (origin := p[-1])  # the sums below are then exact where the motion rests
    sums = np.vstack([np.zeros_like(origin), np.cumsum(means[::-1], axis=0)])[::-1]
    positions = origin + (sums[:-window] - sums[window:]) / window
    velocities = (p[window:] - p[:-window]) / (window * h)
    return positions, velocities
