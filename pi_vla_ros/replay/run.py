# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Recordings in, a folder with verdict, numbers and report out. Interrupted, it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pi_vla_ros.checkpoint import load_checkpoint
from pi_vla_ros.replay import store, tables
from pi_vla_ros.replay.jobs import evaluate_all, normalised_scale
from pi_vla_ros.replay.metrics import episode_rows, error_rows, error_summary
from pi_vla_ros.replay.opening import open_source
from pi_vla_ros.replay.question import Question
from pi_vla_ros.replay.replay_report import write_replay_report
from pi_vla_ros.replay.source import NANO, SourceError
from pi_vla_ros.replay.verdict import verdict


def replay(
    question: Question, recordings: list[Path], out: Path, jobs: int, console: Console, on_ray: bool = False
) -> dict:
    """The summary that is in `out`/summary.json. Recordings that cannot be used are told and left out.

    Raises ValueError when the checkpoint does not fit or no recording is left, OSError when `out` cannot be written.
    """
    folders, failed, lengths = {}, {}, {}
    asked = question.as_dict()
    for recording in recordings:
        try:
            source = open_source(recording, question)
        except SourceError as error:
            failed[recording] = _told(console, error)
            continue
        folders[recording] = store.folder_of(out, recording, store.fingerprint(recording, asked))
        lengths[recording] = (source.end - source.start) / NANO
    open_ones = [(r, f) for r, f in folders.items() if not store.is_done(f)]
    if len(open_ones) < len(folders):
        console.print(f"{len(folders) - len(open_ones)} of {len(folders)} recordings are evaluated already")
    with _bar(console) as bar:
        task = bar.add_task("replay", total=sum(lengths[r] for r, _ in open_ones))
        at = dict.fromkeys(range(len(open_ones)), 0.0)

        def progress(k: int, done: float) -> None:
            at[k] = done
            bar.update(task, completed=sum(at.values()))

        for k, reason in evaluate_all(question, open_ones, jobs, progress, on_ray) if open_ones else ():
            progress(k, lengths[open_ones[k][0]])
            if reason:
                failed[open_ones[k][0]] = _told(console, reason)
    done = [f for r, f in folders.items() if r not in failed]
    if not done:
        raise ValueError("no recording could be evaluated:\n" + "\n".join(failed.values()))
    return _write(question, done, failed, out)


def _write(question: Question, folders: list[Path], failed: dict[Path, str], out: Path) -> dict:
    """Everything over all recordings."""
    names = question.robot.joint_names
    scale = normalised_scale(load_checkpoint(question.checkpoint), question.robot)
    loaded = [store.load_sums(f) for f in folders]
    sums = {k: np.stack([getattr(s, k) for s in loaded]) for k in ("count", "absolute", "squared", "still")}
    episodes = [
        store.load_summary(f) | {"errors": error_summary({k: v[i : i + 1] for k, v in sums.items()}, names, scale)}
        for i, f in enumerate(folders)
    ]
    summary = {
        "robot": question.robot.name,
        "checkpoint": question.checkpoint,
        "dt_s": 1.0 / question.robot.timing.action_hz,
        "seed": question.policy.get("seed"),
        "recordings": len(folders),
        "failed": {str(r): reason for r, reason in sorted(failed.items())},
        "errors": error_summary(sums, names, scale),
        "episodes": episodes,
    }
    summary = {"verdict": verdict(summary, question.robot)} | summary
    timing = [store.timing_summary(_timing(f), 1e3 / question.robot.timing.inference_hz) for f in folders]
    dt = summary["dt_s"]
    rows = error_rows(sums, names, scale, dt)
    tables.write_csv(out / "metrics.csv", rows)
    each = [
        {"recording": e["recording"]} | row
        for e, s in zip(episodes, loaded, strict=True)
        for row in episode_rows(vars(s), names, scale, dt)
    ]
    tables.write_parquet(out / "metrics.parquet", each)
    store.write_json(out / "timing.json", {e["recording"]: t for e, t in zip(episodes, timing, strict=True)})
    store.write_json(out / "summary.json", summary)
    write_replay_report(out / "report.html", question.robot, summary, rows, folders)
    return summary


def _timing(folder: Path) -> dict[str, np.ndarray]:
    return {k.removeprefix("ms_"): v for k, v in store.load_arrays(folder).items() if k.startswith("ms_")}


def _told(console: Console, reason) -> str:
    console.print(f"left out: {reason}", markup=False, highlight=False, soft_wrap=True, style="red")
    return str(reason)


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console)
