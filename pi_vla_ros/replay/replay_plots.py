# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures that only a replay has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pi_vla_ros.replay.plots import COMMANDED, plt, save

COLUMNS = 4


def error_by_joint(rows: Sequence[dict], path: Path) -> None:
    """rows: `metrics.error_rows`; one panel per joint, mean absolute error over the horizon in its unit."""
    joints = list(dict.fromkeys(row["joint"] for row in rows))
    lines = math.ceil(len(joints) / COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(13, 2.3 * lines), sharex=True, squeeze=False)
    for axis in axes.flat[len(joints) :]:
        axis.axis("off")
    for axis, joint in zip(axes.flat, joints, strict=False):
        of = [row for row in rows if row["joint"] == joint]
        after, mean, low, high, still = (
            np.array([np.nan if row[k] is None else row[k] for row in of])
            for k in ("after_s", "mae", "mae_low", "mae_high", "standing_still_mae")
        )
        axis.fill_between(after, low, high, color=COMMANDED, alpha=0.2, lw=0)
        axis.plot(after, mean, color=COMMANDED)
        axis.plot(after, still, color="#888888", ls="--")
        axis.set_title(joint, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("s", fontsize=8)
    save(figure, path)
