# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Rows for people: a table, the grid of views × prompt, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

STAGES = ("vision", "prefix", "expert", "copies")


def table(rows: Sequence[dict]) -> str:
    """One line a case; times in ms."""
    lines = [
        "model views prompt chunk batch | vision prefix expert copies | wall p50    p90    p99  p99.9    max   idle | "
        "floor of it |  GiB init s"
    ]
    for r in rows:
        stages = " ".join(f"{r['stage_ms'][name]:6.2f}" for name in STAGES)
        walls = " ".join(f"{r['wall_ms'][name]:6.2f}" for name in ("p90", "p99", "p99.9", "max"))
        lines.append(
            f"{r['model']:5} {r['views']:5} {r['prompt_len']:6} {r['chunk_size']:5} {r['batch']:5} | {stages} | "
            f"{r['wall_ms']['p50']:8.2f} {walls} {r['after_idle_ms']:6.2f} | "
            f"{r['floor_ms']:5.2f} {r['floor_fraction']:5.0%} | {r['memory_gib']:4.1f} {r['init_s']:6.1f}"
        )
    return "\n".join(lines)


def grid(rows: Sequence[dict]) -> str:
    """Median wall time, views down, prompt lengths across."""
    prompts = sorted({r["prompt_len"] for r in rows})
    p50 = {(r["views"], r["prompt_len"]): r["wall_ms"]["p50"] for r in rows}
    lines = ["views \\ prompt " + " ".join(f"{p:7}" for p in prompts)]
    for views in sorted({r["views"] for r in rows}):
        lines.append(f"{views:14} " + " ".join(f"{p50[views, p]:7.2f}" for p in prompts))
    return "\n".join(lines)


def name_of(row: dict) -> str:
    sizes = f"{row['views']} cam, prompt {row['prompt_len']}, chunk {row['chunk_size']}, batch {row['batch']}"
    others = [  # what is not as usual
        f"{row['rate_hz']:g} Hz" if row["rate_hz"] else "",
        f"vision {row['vision_precision']}" if row["vision_precision"] != row["precision"] else "",
        "frames {}x{}".format(*row["frame"]) if row["frame"] != [224, 224] else "",
    ]
    return ", ".join([row["model"], sizes, *filter(None, others)])


def plot(rows: Sequence[dict], path: Path) -> None:
    """A bar a case: its stages' medians, the wall's median and p99.9, the floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.5 * len(rows)), layout="constrained")
    places, left = range(len(rows)), [0.0] * len(rows)  # by number: two rows may have the same name
    for stage in STAGES:
        widths = [r["stage_ms"][stage] for r in rows]
        axes.barh(places, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for label, marker, values in (
        ("wall p50", "|", [r["wall_ms"]["p50"] for r in rows]),
        ("wall p99.9", ">", [r["wall_ms"]["p99.9"] for r in rows]),
        ("floor", "x", [r["floor_ms"] for r in rows]),
    ):
        axes.plot(values, places, "k" + marker, label=label)
    axes.set_yticks(places, [name_of(r) for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms a step")
    axes.set_title(f"{rows[0]['gpu']}, {rows[0]['precision']}, {rows[0]['date']}")
    figure.legend(loc="outside lower center", ncols=len(STAGES) + 3, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
