# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: cameras, joints, latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from pi_vla_ros.robot import RobotConfig

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt  # noqa: E402

COMMANDED, MEASURED, LIMIT = "#1f77b4", "#ff7f0e", "#c03030"


def cameras(rows: Sequence[tuple[float, Mapping[str, np.ndarray]]], path: Path) -> None:
    """rows: (s since the start, slot -> RGB frame), one row of pictures each."""
    slots = list(rows[0][1])
    figure, axes = plt.subplots(len(rows), len(slots), figsize=(3.6 * len(slots), 2.8 * len(rows)), squeeze=False)
    for line, (time, views) in zip(axes, rows, strict=True):
        for axis, slot in zip(line, slots, strict=True):
            axis.imshow(views[slot])
            axis.set_title(f"{slot}   {time:.1f} s", fontsize=9)
            axis.axis("off")
    _save(figure, path)


def joints(robot: RobotConfig, commanded: tuple, measured: tuple, path: Path) -> None:
    """Position and velocity of every joint over time. commanded, measured: (times s, positions, velocities)."""
    begin, count = measured[0][0], len(robot.joints)
    figure, axes = plt.subplots(count, 2, figsize=(13, 1.7 * count), sharex=True, squeeze=False)
    for j, joint in enumerate(robot.joints):
        for axis, kind in zip(axes[j], (1, 2), strict=True):
            axis.plot(measured[0] - begin, measured[kind][:, j], color=MEASURED, lw=1.6, label="measured")
            axis.plot(commanded[0] - begin, commanded[kind][:, j], color=COMMANDED, lw=0.8, label="commanded")
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.25)
        axes[j][0].set_ylabel(joint.name, fontsize=8)
        for bound in (-joint.velocity, joint.velocity):
            axes[j][1].axhline(bound, color=LIMIT, lw=0.6, ls="--")
    axes[0][0].set_title("position, rad or m")
    axes[0][1].set_title("velocity, per s (dashed: limit)")
    axes[0][0].legend(loc="upper right", fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    _save(figure, path)


def latency(stages: Mapping[str, Sequence[float]], totals: Sequence[float], arrivals: np.ndarray, path: Path) -> None:
    """Histograms per stage (ms), of the whole inference, and of the intervals between commands."""
    intervals = 1e3 * np.diff(arrivals) if len(arrivals) > 1 else np.array([])
    panels = [*stages.items(), ("inference", totals), ("command interval (as received)", intervals)]
    columns = 3
    figure, axes = plt.subplots(math.ceil(len(panels) / columns), columns, figsize=(13, 8), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, values) in zip(axes.flat, panels, strict=False):
        values = np.asarray(values, dtype=float)
        if not len(values):
            axis.set_title(f"{name}: none", fontsize=9)
            continue
        p50, p99 = np.percentile(values, (50, 99))
        axis.hist(values, bins=60, range=(0, max(1e-3, 1.3 * p99)), color=COMMANDED)
        axis.set_title(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms", fontsize=9)
        axis.set_xlabel("ms", fontsize=8)
        axis.tick_params(labelsize=7)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
