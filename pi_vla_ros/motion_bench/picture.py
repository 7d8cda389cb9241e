# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The pictures of bench-control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from pi_vla_ros.motion_bench.compare import Excerpt
from pi_vla_ros.motion_bench.methods import OURS

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt

INK, MUTED, GRID = "#222222", "#8a8a8a", "#dddddd"
MINE, THEIRS, ARM, CHUNK = "#1f6fb4", "#9a9a9a", "#e07b20", "#b9d3ea"
FONT = {"font.size": 9, "axes.edgecolor": MUTED, "axes.spines.top": False, "axes.spines.right": False}


def motion(excerpts: Mapping[str, Excerpt], rows: Mapping[str, dict], path: Path) -> None:
    """A moment of one joint for each method over the chunks it had; beside it, the arm's speed, jerk and error."""
    names = list(excerpts)
    with plt.rc_context(FONT):
        figure = plt.figure(figsize=(16, 1.7 * len(names) + 1.0), layout="constrained")
        grid = figure.add_gridspec(len(names), 3, width_ratios=(1.5, 1.1, 1))
        place = speed = None
        for k, name in enumerate(names):
            place = figure.add_subplot(grid[k, 0], sharex=place, sharey=place)
            speed = figure.add_subplot(grid[k, 1], sharex=place, sharey=speed)
            _place(place, excerpts[name], name)
            _speed(speed, excerpts[name], name)
            if k == 0:
                place.legend(loc="upper right", ncols=4, fontsize=8, frameon=False, borderaxespad=0)
                speed.set_title("speed of the command and of the arm, rad/s", loc="left", fontsize=9)
            for axis in (place, speed):
                axis.tick_params(labelsize=8, labelbottom=k == len(names) - 1)
                axis.grid(color=GRID, lw=0.5)
        place.set_xlabel("s")
        speed.set_xlabel("s")
        place.set_xlim(*excerpts[names[0]].times[[0, -1]])
        place.set_ylim(*_range([x for e in excerpts.values() for x in (e.truth, e.commands)], 0.12, 0.3))
        smooth = [e for name, e in excerpts.items() if name != "step"]  # whose speed runs out of the picture
        speed.set_ylim(*_range([np.gradient(e.arm, e.times) for e in smooth or excerpts.values()], 0.3, 0.3))
        right = grid[:, 2].subgridspec(3, 1)
        for k, (title, value) in enumerate(
            (
                ("largest jerk of the arm, rad/s³", lambda r: r["arm"]["jerk_max"]),
                ("RMS jerk of the arm, rad/s³", lambda r: r["arm"]["jerk_rms"]),
                ("RMS tracking error, mrad", lambda r: 1e3 * r["arm"]["tracking_error_rms"]),
            )
        ):
            _bars(figure.add_subplot(right[k]), names, [value(rows[n]) for n in names], title, log=k < 2)
        figure.suptitle(f"The same chunks, executed in {len(names)} ways ({excerpts[names[0]].joint})", color=INK)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _place(axis, excerpt: Excerpt, name: str) -> None:
    for k, (times, actions) in enumerate(excerpt.chunks):
        axis.plot(times, actions, color=CHUNK, lw=0.8, label="chunks" if k == 0 else None)
    axis.plot(excerpt.times, excerpt.truth, color=MUTED, lw=0.9, ls="--", label="wanted")
    axis.plot(excerpt.times, excerpt.commands, color=_colour(name), lw=1.4, label="commanded")
    axis.plot(excerpt.times, excerpt.arm, color=ARM, lw=1.1, label="arm")
    axis.set_title(name, loc="left", fontsize=10, color=_colour(name), fontweight="bold", pad=2)
    axis.set_ylabel("rad", fontsize=8)


def _speed(axis, excerpt: Excerpt, name: str) -> None:
    axis.plot(excerpt.times, np.gradient(excerpt.commands, excerpt.times), color=_colour(name), lw=0.9)
    axis.plot(excerpt.times, np.gradient(excerpt.arm, excerpt.times), color=ARM, lw=1.1)


def _range(rows: Sequence[np.ndarray], below: float, above: float) -> tuple[float, float]:
    """What all the rows span, with room as shares of it."""
    low, high = min(float(r.min()) for r in rows), max(float(r.max()) for r in rows)
    room = max(high - low, 1e-6)
    return low - below * room, high + above * room


def _bars(axis, names: Sequence[str], values: Sequence[float], title: str, log: bool) -> None:
    places = np.arange(len(names))[::-1]
    axis.barh(places, values, color=[_colour(n) for n in names], height=0.68)
    if log:
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 2, max(values) * 6)
    else:
        axis.set_xlim(0, max(values) * 1.2)
    for place, value in zip(places, values, strict=True):
        axis.annotate(f" {value:,.3g}" if value < 1000 else f" {value:,.0f}", (value, place), va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.set_title(title, loc="left", fontsize=9)
    axis.tick_params(axis="x", labelsize=7)


def _colour(name: str) -> str:
    return MINE if name in OURS else THEIRS


def stream(rows: Sequence[Mapping], path: Path) -> None:
    """rows: what bench-control --stream measured. Intervals relative to the rate's period: 1 is on time."""
    rates = sorted({r["hz"] for r in rows})
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(2, 2, figsize=(11, 6.2), layout="constrained", sharey="row", sharex=True)
        for column, loaded in enumerate((False, True)):
            intervals, kept = axes[:, column]
            for publisher, colour, shift in (("streamer", MINE, -0.1), ("timer", THEIRS, 0.1)):
                found = {r["hz"]: r for r in rows if r["publisher"] == publisher and r["loaded"] == loaded}
                for place, hz in enumerate(rates):
                    if hz not in found:
                        continue
                    late = found[hz]["arrived_ms"]
                    ms = [late[p] for p in ("p50", "p99", "p99.9", "max")]
                    intervals.plot([place + shift] * 2, [ms[0], ms[3]], color=colour, lw=2, alpha=0.5)
                    for value, marker in zip(ms, "o^sx", strict=True):
                        intervals.plot(place + shift, value, marker, color=colour, ms=5)
                    share = 100 * found[hz]["share_of_ticks"]
                    bar = kept.bar(place + 1.6 * shift, share, 0.3, color=colour)
                    kept.bar_label(bar, [f"{share:.1f}"], fontsize=7)
            for place, hz in enumerate(rates):
                intervals.plot([place - 0.35, place + 0.35], [1e3 / hz] * 2, color=INK, lw=0.8, ls=":")
            intervals.set_yscale("log")
            intervals.set_title("three cameras and a busy machine" if loaded else "idle", loc="left")
            intervals.grid(color=GRID, lw=0.5, axis="y")
            kept.set_xticks(range(len(rates)), [f"{hz:g} Hz" for hz in rates])
            kept.set_ylim(0, 119)
        for colour, name in ((MINE, "our streamer"), (THEIRS, "rclpy timer")):
            axes[0, 0].plot([], [], color=colour, lw=4, label=name)
        for marker, name in zip("o^sx", ("p50", "p99", "p99.9", "max"), strict=True):
            axes[0, 0].plot([], [], marker, color=INK, ms=5, label=name)
        axes[0, 0].legend(fontsize=8, ncols=3, frameon=False, loc="upper left")
        axes[0, 0].set_ylabel("ms between two commands, received\n(dotted: the period)", fontsize=8)
        axes[1, 0].set_ylabel("% of ticks with a command", fontsize=8)
        low, high = axes[0, 0].get_ylim()
        axes[0, 0].set_ylim(low, high * 4)
        figure.savefig(path, dpi=120)
        plt.close(figure)
