# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the live node did under a recording: numbers as JSON, and a page to look at."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pi_vla_ros.replay import plots
from pi_vla_ros.replay.online import online_summary, tick_times, with_inference
from pi_vla_ros.replay.report import drawn, page, table
from pi_vla_ros.replay.store import write_json, write_text

SPREAD = ("p50", "p95", "p99", "max")


def write_online_report(path: Path, robot: str, recording: str, statuses: Sequence) -> None:
    """`path`: .html, and the numbers beside it as .json; any other name gets the numbers alone. Raises OSError."""
    summary = online_summary(statuses)
    if path.suffix != ".html":
        write_json(path, summary)
        return
    write_json(path.with_suffix(".json"), summary)
    write_text(path, page(f"The live node on robot '{robot}'", list(_body(recording, statuses, summary))))


def _body(recording: str, statuses: Sequence, summary: Mapping):
    yield f"<p>under {html.escape(recording)}</p>"
    if not summary["ticks"]:
        yield "<p class='bad'>The node told of no tick.</p>"
        return
    yield "<p>Measured on this machine, while it also played the recording.</p>"
    told = ("ticks", "inferences", "deadline_misses", "clock_jumps", "commands_sent", "clips")
    yield "<h2>Counts</h2>" + table([(name.replace("_", " "), summary[name]) for name in told], ("", ""))
    yield "<h2>Times</h2>" + table(list(_times(summary)), ("ms", *SPREAD))
    inferred = with_inference(statuses)
    if inferred:
        at, total = tick_times(inferred), np.array([s.inference_ms for s in inferred])
        period = summary["tick_interval_ms"].get("p50", np.nan)
        yield "<h2>Latency</h2>" + drawn(lambda p: plots.latency_timeline(at - at.min(), total, period, p))
    jitter = [("interval between commands", *(summary["command_interval_ms"].get(k, "") for k in SPREAD))]
    yield "<h2>Jitter of the stream</h2>" + table(jitter, ("ms", *SPREAD))
    yield "<h2>States</h2>" + table([(s, f"{n:.1%}") for s, n in summary["states"].items()], ("state", "of the ticks"))
    drops = summary["drops"] or {"none": ""}
    yield "<h2>Ticks without an inference, chunks thrown away</h2>" + table(list(drops.items()), ("why", "times"))


def _times(summary: Mapping):
    rows = {"tick to tick": summary["tick_interval_ms"], "inference": summary["inference_ms"]}
    rows |= {f"- {stage}": found for stage, found in summary["stage_ms"].items()}
    rows |= {"plan": summary["plan_ms"], "skew within a set": summary["skew_ms"]}
    rows |= {f"age of {camera}": found for camera, found in summary["camera_age_ms"].items()}
    rows |= {"age of the joint state": summary["state_age_ms"]}
    for name, found in rows.items():
        yield (name, *(found.get(k, "") for k in SPREAD))
