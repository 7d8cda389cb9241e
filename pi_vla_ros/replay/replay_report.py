# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The report of a replay: verdict first, then what it rests on."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np

from pi_vla_ros.replay import plots, replay_plots, store
from pi_vla_ros.replay.report import drawn, page, picture, table
from pi_vla_ros.replay.verdict import kept_time
from pi_vla_ros.robot import RobotConfig

SHOWN = 8  # recordings drawn; the numbers have all


def write_replay_report(path: Path, robot: RobotConfig, summary: dict, rows: list[dict], folders: list[Path]) -> None:
    """One HTML file that needs nothing else. rows: of `error_rows`; folders: of the recordings, as in the summary."""
    episodes = list(zip(summary["episodes"], folders, strict=True))
    body = [*_verdict(summary, kept_time(_all_timing(robot, folders))), *_overview(summary)]
    body += ["<h2>Error by joint</h2>", _joints(summary)]
    horizon = drawn(lambda p: plots.error_by_horizon(summary["errors"], summary["dt_s"], p))
    by_joint = drawn(lambda p: replay_plots.error_by_joint(rows, p))
    body += ["<h2>Error by horizon</h2>", horizon, "<h3>By joint, rad or m</h3>", by_joint]
    for episode, folder in episodes[:SHOWN]:
        body += _episode(robot, episode, folder)
    if len(episodes) > SHOWN:
        body.append(f"<p>The other {len(episodes) - SHOWN} recordings are in summary.json.</p>")
    raw = html.escape(json.dumps({k: v for k, v in summary.items() if k != "episodes"}, indent=2, ensure_ascii=False))
    body.append(
        f"<h2>Numbers</h2><details><summary>summary.json, without recordings</summary><pre>{raw}</pre></details>"
    )
    store.write_text(path, page(f"Replay on robot '{robot.name}'", body))


def _verdict(summary: dict, in_time: tuple[bool, str]):
    found = summary["verdict"]
    yield f"<p>{html.escape(summary['checkpoint'])}</p><ul>"
    for good, text in [(s["good"], s["text"]) for s in found["sentences"]] + [in_time]:
        yield f"<li class='{'good' if good else 'bad'}'>{html.escape(text)}</li>"
    yield f"</ul><p><b>{html.escape(found['caveat'])}</b></p>"


def _all_timing(robot: RobotConfig, folders: list[Path]) -> dict:
    total = np.concatenate([store.load_arrays(folder)["ms_total"] for folder in folders])
    return store.timing_summary({"total": total}, 1e3 / robot.timing.inference_hz)


def _overview(summary: dict):
    heads = (
        "recording",
        "s",
        "inferences",
        "error",
        "standing still",
        "clips",
        "jerk rms",
        "s without chunk",
        "dropped",
    )
    rows = []
    for e in summary["episodes"]:
        idle = sum(e["state_s"].values()) - e["state_s"].get("RUNNING", 0.0)
        rows.append(
            (
                e["recording"],
                e["duration_s"],
                e["inferences"],
                e["errors"]["normalised_mae"]["mean"],
                e["errors"]["standing_still_normalised_mae"]["mean"],
                sum(e["clips"].values()),
                max(j["rms"] for j in e["jerk"].values()),
                idle,
                ", ".join(f"{k} {v}" for k, v in e["drops"].items()) or "none",
            )
        )
    yield "<h2>Recordings</h2>" + table(rows, heads)


def _joints(summary: dict) -> str:
    rows = []
    for name, e in summary["errors"]["joints"].items():
        mae, low, high = (e["mae"][k] for k in ("mean", "low", "high"))
        between = "one recording" if low is None else f"{low:.3g} to {high:.3g}"
        others = (e[k]["mean"] for k in ("mse", "standing_still_mae", "normalised_mae", "normalised_mse"))
        changes = [
            c for episode in summary["episodes"] if (c := episode["change_between_predictions"][name]) is not None
        ]
        rows.append((name, mae, between, *others, float(np.mean(changes)) if changes else ""))
    heads = ("joint", "mean abs. error", "95 %", "mean sq. error", "standing still", "normalised", "normalised sq.")
    return table(rows, (*heads, "change between predictions"))


def _episode(robot: RobotConfig, episode: dict, folder: Path):
    arrays = store.load_arrays(folder)
    timing = {k.removeprefix("ms_"): v for k, v in arrays.items() if k.startswith("ms_")}
    period = 1e3 / robot.timing.inference_hz
    late = {slot: c.get("late_ms", {}) for slot, c in episode["cameras"].items()}
    yield f"<h2>{html.escape(episode['recording'])}</h2><p>prompt: {html.escape(episode['prompt'])}</p>"
    yield "<h3>Predicted and demonstrated</h3>" + drawn(lambda p: plots.predictions(robot, arrays, p))
    yield "<h3>Motion</h3>" + _joins(episode) + _motion(episode)
    yield "<h3>Worst moments</h3>" + "".join(_moments(episode, folder))
    yield "<h3>Latency, as measured on this machine</h3>"
    yield drawn(lambda p: plots.latency_timeline(timing["at"], timing["total"], period, p)) + _stages(timing, period)
    yield "<h3>If inference took longer</h3>"
    yield drawn(lambda p: plots.by_delay(episode["by_delay"], p)) + _delays(episode)
    yield "<h3>Jitter of the cameras</h3>" + drawn(lambda p: plots.arrival_jitter(late, p)) + _cameras(episode)


def _joins(episode: dict) -> str:
    """What the arm would have felt without stitching, and what it feels."""
    joins, names = episode["joins"], (("position_step", "position, rad or m"), ("velocity_step", "velocity, per s"))
    rows = [
        (f"{words}, {how}", *(joins[f"{key}{suffix}"].get(k, "") for k in ("p50", "p95", "p99", "max")))
        for key, words in names
        for suffix, how in (("_unstitched", "chunk followed at once"), ("", "as joined"))
    ]
    return table(rows, (f"step at {joins['count']} joins", "p50", "p95", "p99", "max"))


def _motion(episode: dict) -> str:
    rows = [(n, j["rms"], j["max"], episode["travelled"][n]) for n, j in episode["jerk"].items()]
    clips = ", ".join(f"{limit} {count}" for limit, count in episode["clips"].items())
    states = ", ".join(f"{state} {seconds:.3g} s" for state, seconds in episode["state_s"].items())
    heads = ("joint", "jerk rms, per s³", "jerk max", "travelled")
    return table(rows, heads) + f"<p>Points that a limit cut: {clips}. Time in each state: {states}.</p>"


def _moments(episode: dict, folder: Path):
    for k, moment in enumerate(episode["worst"]):
        yield f"<p>{moment['at_s']:.1f} s: mean error {moment['normalised_mae']:.3g} normalised</p>"
        for path in sorted(folder.glob(f"moment-{k}-*.jpg")):
            yield picture(path.stem, path.read_bytes(), "jpeg")


def _stages(timing: dict[str, np.ndarray], period: float) -> str:
    told = store.timing_summary(timing, period)
    rows = [(name, *(e[k] for k in ("p50", "p95", "p99", "max"))) for name, e in told["stage_ms"].items() if e]
    rows.append(("inference", *(told["total_ms"][k] for k in ("p50", "p95", "p99", "max"))))
    misses = f"{told['deadline_misses']} of {told['inferences']} inferences took longer than a tick ({period:.1f} ms)"
    return table(rows, ("stage, ms", "p50", "p95", "p99", "max")) + f"<p>{misses}.</p>"


def _delays(episode: dict) -> str:
    rows = []
    for r in sorted(episode["by_delay"], key=lambda r: r["delay_ms"]):
        step = r["position_step_unstitched"].get("p99", 0.0)
        rows.append((r["delay_ms"], r["chunks"], r["strayed"], step, r["clips"], r["not_running_s"]))
    return table(rows, ("delay, ms", "chunks", "strayed", "raw step p99", "limit clips", "s without chunk"))


def _cameras(episode: dict) -> str:
    heads = ("camera", "frames", "Hz", "lost", "longest gap, s", "starts after, s", "out of order")
    keys = ("count", "rate_hz", "lost", "longest_gap_s", "starts_after_s", "out_of_order")
    rows = [(slot, *(c.get(k, "") for k in keys)) for slot, c in episode["cameras"].items()]
    skew = ", ".join(f"{k} {v:.3g}" for k, v in episode["skew_ms"].items())
    return table(rows, heads) + f"<p>Skew within a set, ms: {skew}</p>"
