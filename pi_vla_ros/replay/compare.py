# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Two replays of the same recordings, paired: which checkpoint is better, and is that more than chance?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from pi_vla_ros.replay.metrics import number

FEWEST = 6  # pairs: with fewer, no outcome has a probability below 5 %
ALPHA = 0.05


def compare_replays(a: Path, b: Path) -> dict:
    """a, b: folders that `replay` wrote. Per metric the means, and Wilcoxon's signed-rank test over recordings.

    Less is better in every metric. Raises ValueError when they cannot be paired.
    """
    first, second = _read(a), _read(b)
    for key in ("robot", "dt_s"):
        if first["summary"][key] != second["summary"][key]:
            raise ValueError(f"{key}: {a} has {first['summary'][key]}, {b} has {second['summary'][key]}")
    shared = [name for name in first["episodes"] if name in second["episodes"]]
    if not shared:
        raise ValueError(f"no recording is in both: {a} has {_few(first)}; {b} has {_few(second)}")
    for name in shared:
        one, other = (x["episodes"][name] for x in (first, second))
        for key in ("commands", "duration_s", "assumed_delay_ms"):
            if one[key] != other[key]:
                raise ValueError(f"{name}: {key} is {one[key]} in {a}, {other[key]} in {b}: replay both alike")
    rows = {name: [_metrics(x, name) for x in (first, second)] for name in shared}
    names = [m for m in rows[shared[0]][0] if all(m in pair[0] and m in pair[1] for pair in rows.values())]
    values = {m: np.array([[pair[0][m], pair[1][m]] for pair in rows.values()], float) for m in names}
    return {
        "a": first["summary"]["checkpoint"],
        "b": second["summary"]["checkpoint"],
        "recordings": shared,
        "only_in_one": sorted(set(first["episodes"]) ^ set(second["episodes"])),
        "metrics": {m: paired(v[:, 0], v[:, 1]) for m, v in values.items()},
    }


def paired(a: np.ndarray, b: np.ndarray) -> dict:
    """Means, mean difference b - a, p (None with too few pairs), and who is better beyond chance: 'a', 'b' or ''."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if not len(a):
        return {"a": None, "b": None, "difference": None, "pairs": 0, "p": None, "better": ""}
    difference, p = b - a, None
    if len(a) >= FEWEST:
        p = float(wilcoxon(a, b).pvalue) if difference.any() else 1.0
    better = ""
    if p is not None and p < ALPHA:
        better = "a" if np.median(difference) > 0 else "b"
    means = {"a": number(a.mean()), "b": number(b.mean()), "difference": number(difference.mean())}
    return means | {"pairs": len(a), "p": None if p is None else number(p), "better": better}


def _metrics(read: dict, name: str) -> dict[str, float]:
    episode, timing = read["episodes"][name], read["timing"].get(name, {})
    errors = episode["errors"]
    found = {
        "error, normalised": errors["normalised_mae"]["mean"],
        "squared error, normalised": errors["normalised_mse"]["mean"],
        **{f"error, {joint}": e["mae"]["mean"] for joint, e in errors["joints"].items()},
        "change between predictions": _mean(episode["change_between_predictions"].values()),
        "position step before joining, p99": episode["joins"]["position_step_unstitched"].get("p99"),
        "jerk, rms": _mean(j["rms"] for j in episode["jerk"].values()),
        "limit clips": sum(episode["clips"].values()),
        "s without a chunk to follow": sum(v for k, v in episode["state_s"].items() if k != "RUNNING"),
        "latency p50, ms (measured)": timing.get("total_ms", {}).get("p50"),
        "latency p99, ms (measured)": timing.get("total_ms", {}).get("p99"),
    }
    return {k: np.nan if v is None else v for k, v in found.items()}


def _read(folder: Path) -> dict:
    found = {}
    for name in ("summary", "timing"):
        path = folder / f"{name}.json"
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read: {error.strerror}; give the folder that replay wrote (--out)"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: not JSON: {error}") from error
    if "episodes" not in found["summary"]:
        raise ValueError(f"{folder}: summary.json is not of a replay")
    return found | {"episodes": {e["recording"]: e for e in found["summary"]["episodes"]}}


def _mean(values) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _few(read: dict) -> str:
    return ", ".join(list(read["episodes"])[:3])
