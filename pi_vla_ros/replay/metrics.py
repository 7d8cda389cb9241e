# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Numbers from sums: per episode, and over episodes with confidence. The same input always gives the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95
DIGITS = 7


def number(value: float) -> float | None:
    """A float for JSON: a few digits; None for what is not a number."""
    return float(f"{float(value):.{DIGITS}g}") if np.isfinite(value) else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max; empty without values."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if not len(found):
        return {}
    p50, p95, p99 = np.percentile(found, (50, 95, 99))
    return {"p50": number(p50), "p95": number(p95), "p99": number(p99), "max": number(found.max())}


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)


def pooled(total: np.ndarray, count: np.ndarray) -> dict[str, float | None]:
    """Mean over all that was counted, with a 95 % interval over episodes (E,): they vary, not their frames.

    Student's t with the jackknife's standard error: holds for a few episodes of unequal length too. low and high are
    None with fewer than two episodes: nothing is known about how they vary.
    """
    total, count = np.asarray(total, float), np.asarray(count, float)
    total, count = total[count > 0], count[count > 0]
    episodes = len(total)
    if not episodes:
        return {"mean": None, "low": None, "high": None}
    mean = total.sum() / count.sum()
    if episodes < 2:
        return {"mean": number(mean), "low": None, "high": None}
    without = (total.sum() - total) / (count.sum() - count)
    error = np.sqrt((episodes - 1) / episodes * ((without - without.mean()) ** 2).sum())
    half = error * student_t.ppf(0.5 + CONFIDENCE / 2, episodes - 1)
    return {"mean": number(mean), "low": number(max(0.0, mean - half)), "high": number(mean + half)}


def error_summary(sums: Mapping[str, np.ndarray], names: Sequence[str], scale: np.ndarray) -> dict:
    """sums: count, absolute, squared, still, each (E, H, J); scale: (J,) normalised units per robot unit.

    Per joint in the robot's units; all joints together normalised, over the chunk and by horizon step.
    """
    count, absolute, squared, still = (np.asarray(sums[k], float) for k in ("count", "absolute", "squared", "still"))
    joints = {
        name: {
            "mae": pooled(absolute[:, :, j].sum(1), count[:, :, j].sum(1)),
            "mse": pooled(squared[:, :, j].sum(1), count[:, :, j].sum(1)),
            "standing_still_mae": pooled(still[:, :, j].sum(1), count[:, :, j].sum(1)),
            "normalised_mae": pooled(scale[j] * absolute[:, :, j].sum(1), count[:, :, j].sum(1)),
            "normalised_mse": pooled(scale[j] ** 2 * squared[:, :, j].sum(1), count[:, :, j].sum(1)),
        }
        for j, name in enumerate(names)
    }
    steps = [
        pooled((scale * absolute[:, h]).sum(1), count[:, h].sum(1))
        | {"standing_still": _mean(scale * still[:, h], count[:, h])}
        for h in range(count.shape[1])
    ]
    everything = count.sum((1, 2))
    return {
        "normalised_mae": pooled((scale * absolute).sum((1, 2)), everything),
        "normalised_mse": pooled((scale**2 * squared).sum((1, 2)), everything),
        "standing_still_normalised_mae": pooled((scale * still).sum((1, 2)), everything),
        "joints": joints,
        "by_horizon": steps,
    }


def error_rows(sums: Mapping[str, np.ndarray], names: Sequence[str], scale: np.ndarray, dt: float) -> list[dict]:
    """One row per joint and horizon step, over all episodes: what `metrics.csv` holds."""
    count, absolute, squared, still = (np.asarray(sums[k], float) for k in ("count", "absolute", "squared", "still"))
    rows = []
    for j, name in enumerate(names):
        for h in range(count.shape[1]):
            mae = pooled(absolute[:, h, j], count[:, h, j])
            mse = _mean(squared[:, h, j], count[:, h, j])
            rows.append(
                {
                    "joint": name,
                    "step": h,
                    "after_s": number(h * dt),
                    "count": int(count[:, h, j].sum()),
                    "mae": mae["mean"],
                    "mae_low": mae["low"],
                    "mae_high": mae["high"],
                    "mse": mse,
                    "normalised_mae": None if mae["mean"] is None else number(scale[j] * mae["mean"]),
                    "normalised_mse": None if mse is None else number(scale[j] ** 2 * mse),
                    "standing_still_mae": _mean(still[:, h, j], count[:, h, j]),
                }
            )
    return rows


def episode_rows(sums: Mapping[str, np.ndarray], names: Sequence[str], scale: np.ndarray, dt: float) -> list[dict]:
    """One row per joint and horizon step of one episode, sums (H, J) each: what `metrics.parquet` holds."""
    count = sums["count"]
    absolute, squared, still = (ratio(sums[k], count) for k in ("absolute", "squared", "still"))
    return [
        {
            "joint": name,
            "step": h,
            "after_s": h * dt,
            "count": int(count[h, j]),
            "mae": absolute[h, j],
            "mse": squared[h, j],
            "normalised_mae": scale[j] * absolute[h, j],
            "normalised_mse": scale[j] ** 2 * squared[h, j],
            "standing_still_mae": still[h, j],
        }
        for j, name in enumerate(names)
        for h in range(len(count))
    ]


def stream_summary(stamps: Sequence[float], received: Sequence[float], begin: float) -> dict:
    """One topic: stamps and receive times, s. lost: share of messages missing in an otherwise even row of stamps."""
    stamps, received = np.asarray(stamps), np.asarray(received)
    if not len(stamps):
        return {"count": 0}
    spacing = np.diff(stamps)
    forward = spacing[spacing > 0]
    found = {
        "count": len(stamps),
        "starts_after_s": number(received[0] - begin),
        "out_of_order": int((spacing <= 0).sum()),
        "late_ms": spread(1e3 * (received - stamps)),
    }
    if len(forward):
        usual = np.median(forward)
        missing = np.maximum(np.round(forward / usual) - 1, 0).sum()
        found |= {
            "rate_hz": number(len(forward) / forward.sum()),
            "longest_gap_s": number(forward.max()),
            "lost": number(missing / (missing + len(stamps))),
        }
    return found


def _mean(total: np.ndarray, count: np.ndarray) -> float | None:
    counted = float(np.sum(count))
    return number(np.sum(total) / counted) if counted else None
