# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Joining a new reference to the current motion: the difference at the join fades out, C2, within a window."""

from __future__ import annotations

import numpy as np


def fade(dp: np.ndarray, dv: np.ndarray, da: np.ndarray, times: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray]:
    """The quintic that starts at (dp, dv, da) (joints,) and is zero, with two derivatives, from `window` s on.

    times: (K,) s since the join. Returns value and rate, each (K, joints).
    """
    s = np.clip(times / window, 0.0, 1.0)[:, None]
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
