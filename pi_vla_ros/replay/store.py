# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is on disk of one evaluated recording: complete or not there, and never of another question.

bags/<name>-<hash>/  summary.json  timing.json  arrays.npz  moment-<k>-<slot>.jpg  predictions/
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pi_vla_ros.replay.episode import Episode
from pi_vla_ros.replay.errors import Sums
from pi_vla_ros.replay.metrics import number, spread

SUMMARY, TIMING, ARRAYS, PREDICTIONS = "summary.json", "timing.json", "arrays.npz", "predictions"


def fingerprint(recording: Path, question: dict) -> str:
    """Changes with the recording's files and with everything that was asked about it."""
    place = recording if recording.exists() else recording.parent / "meta"  # an episode of a dataset is no file
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps([str(recording), seen, question], sort_keys=True).encode()).hexdigest()[:16]


def folder_of(out: Path, recording: Path, mark: str) -> Path:
    return out / "bags" / f"{recording.stem}-{mark}"


def is_done(folder: Path) -> bool:
    return (folder / SUMMARY).is_file()


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A place for what will be `folder`: all or nothing. It is renamed when it is complete, removed when it is not."""
    place = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(place, ignore_errors=True)  # left by a run that was killed
    try:
        place.mkdir(parents=True)
        yield place
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def save(place: Path, episode: Episode, period_ms: float) -> None:
    """Raises OSError."""
    sums = {f"sum_{k}": v for k, v in asdict(episode.sums).items()}
    timing = {f"ms_{k}": v for k, v in episode.timing.items()}
    np.savez_compressed(place / ARRAYS, **sums, **episode.curves, **timing)
    for k, moment in enumerate(episode.worst):
        for slot, picture in moment.pictures.items():
            (place / f"moment-{k}-{slot}.jpg").write_bytes(picture)
    write_json(place / TIMING, timing_summary(episode.timing, period_ms))
    write_json(place / SUMMARY, episode.summary)


def load_summary(folder: Path) -> dict:
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Names as `save` writes them: sum_*, ms_*, and the curves'."""
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return dict(arrays)


def load_sums(folder: Path) -> Sums:
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return Sums(*(arrays[f"sum_{k}"] for k in Sums.__dataclass_fields__))


def timing_summary(timing: dict[str, np.ndarray], period_ms: float) -> dict:
    """Latencies as measured here, per stage; misses: inferences that took longer than a tick."""
    total = timing["total"]
    return {
        "inferences": len(total),
        "deadline_misses": int((total > period_ms).sum()),
        "period_ms": number(period_ms),
        "total_ms": spread(total),
        "stage_ms": {name: spread(values) for name, values in timing.items() if name not in ("at", "total")},
    }


def write_json(path: Path, data: dict) -> None:
    """The same data gives the same bytes; what was there stays until the new one is complete."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step. Raises OSError; the old file is then still there."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
