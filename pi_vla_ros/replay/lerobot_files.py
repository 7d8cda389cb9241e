# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where things are in a LeRobot dataset: info.json, and per episode its parquet and video files. Needs pyarrow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pi_vla_ros.replay.source import SourceError


@dataclass(frozen=True)
class EpisodeFiles:
    """Where an episode is: its parquet file, and per camera key (file, s of its first frame)."""

    data: Path
    videos: dict[str, tuple[Path, float]]
    tasks: dict[int, str]


def locate(dataset: Path, info: dict, index: int, keys: list[str]) -> EpisodeFiles:
    videos = [key for key in keys if info["features"][key]["dtype"] == "video"]
    if info["codebase_version"].startswith("v2"):
        place = {"episode_chunk": index // int(info["chunks_size"]), "episode_index": index}
        tasks = _lines(dataset / "meta" / "tasks.jsonl")
        return EpisodeFiles(
            dataset / info["data_path"].format(**place),
            {key: (dataset / info["video_path"].format(video_key=key, **place), 0.0) for key in videos},
            {int(row["task_index"]): row["task"] for row in tasks},
        )
    row = next(
        (
            r
            for p in sorted((dataset / "meta" / "episodes").rglob("*.parquet"))
            for r in read_table(p, None, index).to_pylist()
        ),
        None,
    )
    if row is None:
        raise SourceError(f"{dataset}: meta/episodes does not know episode {index}")
    files = {
        key: dataset / info["video_path"].format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        for key in videos
    }  # fmt: skip
    tasks = read_table(dataset / "meta" / "tasks.parquet", None, None).to_pylist()
    data = info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    return EpisodeFiles(
        dataset / data,
        {key: (path, float(row[f"videos/{key}/from_timestamp"])) for key, path in files.items()},
        {int(t["task_index"]): t.get("task") or t.get("__index_level_0__", "") for t in tasks},
    )


def read_table(path: Path, columns: list[str] | None, episode: int | None):
    """Rows of one episode, or all. Raises SourceError naming the file."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise SourceError("LeRobot datasets need pyarrow: pip install pyarrow") from error
    try:
        filters = None if episode is None else [("episode_index", "=", episode)]
        return parquet.read_table(path, columns=columns, filters=filters)
    except Exception as error:  # pyarrow raises its own and OSError
        raise SourceError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def read_info(dataset: Path) -> dict:
    path = dataset / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read ({error}): not a LeRobot dataset?") from error
    version = str(info.get("codebase_version"))
    if not version.startswith(("v2", "v3")):
        raise SourceError(f"{path}: codebase_version {version} is not known; v2.x and v3.0 are")
    return info


def _lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
