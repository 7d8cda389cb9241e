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
import matplotlib.pyplot as plt

COMMANDED, MEASURED, LIMIT, PREDICTED = "#1f77b4", "#ff7f0e", "#c03030", "#2ca02c"
OVERLAP = 3  # predictions drawn over each other at any moment; all would hide the curves


def cameras(rows: Sequence[tuple[float, Mapping[str, np.ndarray]]], path: Path) -> None:
    """rows: (s since the start, slot -> RGB frame), one row of pictures each."""
    slots = list(rows[0][1])
    figure, axes = plt.subplots(len(rows), len(slots), figsize=(3.6 * len(slots), 2.8 * len(rows)), squeeze=False)
    for line, (time, views) in zip(axes, rows, strict=True):
        for axis, slot in zip(line, slots, strict=True):
            axis.imshow(views[slot])
            axis.set_title(f"{slot}   {time:.1f} s", fontsize=9)
            axis.axis("off")
    save(figure, path)


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
    save(figure, path)


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
    save(figure, path)


def predictions(robot: RobotConfig, curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Recorded, commanded and predicted positions; a dot where an inference began. curves: `Episode.curves`."""
    time, ahead = curves["time"], np.arange(curves["chunk_actions"].shape[1]) / robot.timing.action_hz
    drawn: list[int] = []
    for k, stamp in enumerate(curves["chunk_stamp"]):
        if not drawn or stamp >= curves["chunk_stamp"][drawn[-1]] + ahead[-1] / OVERLAP:
            drawn.append(k)
    stamps, chunks = curves["chunk_stamp"][drawn], curves["chunk_actions"][drawn]
    figure, axes = plt.subplots(len(robot.joints), 1, figsize=(13, 1.7 * len(robot.joints)), sharex=True, squeeze=False)
    for j, (axis, joint) in enumerate(zip(axes[:, 0], robot.joints, strict=True)):
        axis.plot(time, curves["recorded"][:, j], color=MEASURED, lw=1.8, label="demonstrated")
        axis.plot(time, curves["commanded"][:, j], color=COMMANDED, lw=0.8, label="would be commanded")
        if joint.action.kind == "position":
            for stamp, actions in zip(stamps, chunks[:, :, j], strict=True):
                axis.plot(stamp + ahead, actions, color=PREDICTED, lw=0.6, alpha=0.6)
                axis.plot(stamp, actions[0], "o", color=PREDICTED, ms=2.5)
        axis.set_ylabel(joint.name, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    axes[0][0].plot([], [], "o-", color=PREDICTED, lw=0.6, ms=2.5, label="predicted (some)")
    axes[0][0].legend(loc="upper right", fontsize=7, ncols=3)
    axes[-1][0].set_xlabel("s")
    save(figure, path)


def error_by_horizon(errors: Mapping, dt: float, path: Path) -> None:
    """errors: what `metrics.error_summary` gives; normalised, beside an arm that stands still."""
    rows = errors["by_horizon"]
    ahead = dt * np.arange(len(rows))
    mean, low, high, still = (
        np.array([np.nan if r[k] is None else r[k] for r in rows]) for k in ("mean", "low", "high", "standing_still")
    )
    figure, axis = plt.subplots(figsize=(9, 3.6))
    axis.fill_between(ahead, low, high, color=COMMANDED, alpha=0.2, lw=0)
    axis.plot(ahead, mean, color=COMMANDED, label="policy (band: 95 % over recordings)")
    axis.plot(ahead, still, color="#888888", ls="--", label="an arm that stands still")
    axis.set_xlabel("s after the observation")
    axis.set_ylabel("mean error, normalised")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    save(figure, path)


def latency_timeline(at: np.ndarray, total: np.ndarray, period_ms: float, path: Path) -> None:
    """Histogram of the time of inference, and its course; at (N,) s, total (N,) ms. Dashed: a tick."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 3.2), width_ratios=(1, 2))
    left.hist(total, bins=60, color=COMMANDED)
    p50, p99 = np.percentile(total, (50, 99))
    left.set_title(f"p50 {p50:.1f}, p99 {p99:.1f}, max {total.max():.1f} ms", fontsize=9)
    left.set_xlabel("ms")
    left.axvline(period_ms, color=LIMIT, lw=0.8, ls="--")
    right.plot(at, total, ".", ms=2, color=COMMANDED)
    right.axhline(period_ms, color=LIMIT, lw=0.8, ls="--")
    right.set_xlabel("s of the recording")
    right.set_ylabel("ms")
    for axis in (left, right):
        axis.grid(alpha=0.25)
    save(figure, path)


def arrival_jitter(ages: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Per camera, p50 to max of the ms between a frame's stamp and its arrival in the recording."""
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.5 * max(1, len(ages))))
    for k, late in enumerate(ages.values()):
        if late:
            axis.plot([late["p50"], late["max"]], [k, k], color="#bbbbbb", lw=3)
            for name, colour in (("p50", COMMANDED), ("p95", PREDICTED), ("p99", MEASURED), ("max", LIMIT)):
                axis.plot(late[name], k, "o", color=colour, label=name if k == 0 else None)
    axis.set_yticks(range(len(ages)), list(ages), fontsize=8)
    axis.set_xlabel("ms from stamp to arrival")
    axis.margins(y=0.3)
    axis.legend(fontsize=7, ncols=4)
    save(figure, path)


def by_delay(rows: Sequence[Mapping], path: Path) -> None:
    """rows: `by_delay` of an episode; how far the commanded motion strays from the demonstrated one."""
    rows = sorted((r for r in rows if r["strayed"] is not None), key=lambda r: r["delay_ms"])
    figure, axis = plt.subplots(figsize=(9, 3.0))
    axis.plot([r["delay_ms"] for r in rows], [r["strayed"] for r in rows], "o-", color=COMMANDED)
    axis.set_xlabel("ms that inference takes")
    axis.set_ylabel("commanded against demonstrated,\nnormalised", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
