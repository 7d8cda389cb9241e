# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a LeRobot dataset on disk (v2.x and v3.0; parquet, with images inside or as video) as sources.

Read locally; needs pyarrow. States and actions of a dataset are in the policy's units and are converted back to the
robot's. Stamps are the dataset's, from one second on: what counts is their distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from pi_vla_ros.replay.lerobot_files import locate, read_info, read_table
from pi_vla_ros.replay.source import NANO, Event, SourceError
from pi_vla_ros.replay.video import frames
from pi_vla_ros.robot import RobotConfig

BEGIN = NANO  # ns
IMAGES = "observation.images."


def find_episodes(dataset: Path, wanted: list[int] | None = None) -> list[Path]:
    """One path per episode, for `EpisodeSource`: <dataset>/episode_000003, which no file has. Raises SourceError."""
    info = read_info(dataset)
    every = range(int(info["total_episodes"]))
    missing = sorted(set(wanted or ()) - set(every))
    if missing:
        raise SourceError(f"{dataset}: has episodes 0 to {len(every) - 1}, not {', '.join(map(str, missing))}")
    return [dataset / f"episode_{k:06d}" for k in (every if wanted is None else wanted)]


def is_episode(path: Path) -> bool:
    """Whether `find_episodes` made it."""
    return path.name.startswith("episode_") and (path.parent / "meta" / "info.json").is_file() and not path.exists()


class EpisodeSource:
    """One episode. rename: what the dataset calls a camera -> slot, where the names differ."""

    commands = "commands"

    def __init__(
        self, path: Path, robot: RobotConfig, rename: dict[str, str], start: float = 0.0, duration: float = 0.0
    ):
        """start, duration: s from the episode's beginning; a duration of 0 means to its end. Raises SourceError."""
        self.name, self._robot, dataset = str(path), robot, path.parent
        self._info, self._index = read_info(dataset), int(path.name.removeprefix("episode_"))
        self._fps = float(self._info["fps"])
        self._cameras = self._match_cameras(rename)
        self._to_robot = self._conversions()
        self._where = locate(dataset, self._info, self._index, list(self._cameras.values()))
        self._rows = self._read_rows()
        last = len(self._rows["timestamp"])
        self._from = round(start * self._fps)
        self._until = min(last, self._from + round(duration * self._fps)) if duration else last
        if self._from >= self._until:
            length = f"{last / self._fps:.1f} s"
            raise SourceError(f"{self.name}: --start {start} s lies behind its end; it is {length} long")
        self.start, self.end = self._time(self._from), self._time(self._until - 1) + 1

    def events(self) -> Iterator[Event]:
        """Prompt, action, state and images of every frame, at its time."""
        images = {slot: self._frames(key) for slot, key in self._cameras.items()}
        names, prompt = self._robot.joint_names, None
        for k in range(self._until):
            shown = {slot: next(read) for slot, read in images.items()}
            if k < self._from:
                continue
            at = self._time(k)
            header = SimpleNamespace(stamp=SimpleNamespace(sec=at // NANO, nanosec=at % NANO))
            task = self._where.tasks.get(int(self._rows["task_index"][k]), "")
            if task and task != prompt:
                prompt = task
                yield Event(at, "prompt", "", SimpleNamespace(data=task))
            state, action = (convert(self._rows[key][k]) for key, convert in self._to_robot.items())
            yield Event(at, "command", "", SimpleNamespace(data=action))
            yield Event(at, "state", "", SimpleNamespace(header=header, name=names, position=state))
            for slot, image in shown.items():
                yield Event(at, "image", slot, _message(header, image))

    def _time(self, frame: int) -> int:
        return BEGIN + round(frame * NANO / self._fps)

    def _match_cameras(self, rename: dict[str, str]) -> dict[str, str]:
        """slot -> the dataset's key."""
        keys = {k.removeprefix(IMAGES): k for k in self._info["features"] if k.startswith(IMAGES)}
        of_slot = {rename.get(name, name): key for name, key in keys.items()}
        missing = [slot for slot in self._robot.cameras if slot not in of_slot]
        if missing:
            raise SourceError(
                f"{self.name}: no camera for {', '.join(missing)}; the dataset has {', '.join(keys) or 'none'}. Name "
                "them with --camera SLOT=NAME"
            )
        return {slot: of_slot[slot] for slot in self._robot.cameras}

    def _conversions(self) -> dict[str, Any]:
        """Column -> policy units to robot units. Raises SourceError where a column does not fit the robot."""
        joints = self._robot.joints
        for key in ("observation.state", "action"):
            shape = self._info["features"].get(key, {}).get("shape")
            if shape is None or list(shape) != [len(joints)]:
                name = self._robot.name
                raise SourceError(f"{self.name}: {key} has shape {shape}; robot '{name}' has {len(joints)} joints")
        if any(j.state.kind != "linear" for j in joints) or any(j.action.kind != "position" for j in joints):
            raise SourceError(
                f"{self.name}: robot '{self._robot.name}' has joints with state.kind aloha_gripper or action.kind "
                "velocity, which cannot be read back from a dataset; replay a bag"
            )
        scale, offset = (np.array([getattr(j.state, k) for j in joints]) for k in ("scale", "offset"))
        gain, shift = (np.array([getattr(j.action, k) for j in joints]) for k in ("scale", "offset"))
        return {"observation.state": lambda x: (x - offset) / scale, "action": lambda x: gain * x + shift}

    def _read_rows(self) -> dict[str, np.ndarray]:
        columns = ["observation.state", "action", "timestamp", "task_index"]
        table = read_table(self._where.data, columns, self._index)
        if not table.num_rows:
            raise SourceError(f"{self.name}: {self._where.data} has no row of it")
        rows = {name: np.array(table[name].to_pylist(), float) for name in columns}
        wrong = np.abs(np.diff(rows["timestamp"]) * self._fps - 1) > 0.1
        if wrong.any():
            raise SourceError(f"{self.name}: timestamps are not {self._fps} a second at frame {int(np.argmax(wrong))}")
        return rows

    def _frames(self, key: str) -> Iterator[np.ndarray]:
        if key in self._where.videos:
            path, begin = self._where.videos[key]
            return frames(path, begin, self._until, self._fps)
        return self._images(key)

    def _images(self, key: str) -> Iterator[np.ndarray]:
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(self._where.data).iter_batches(64, columns=[key, "episode_index"]):
            for image, episode in zip(batch[key].to_pylist(), batch["episode_index"].to_pylist(), strict=True):
                if episode == self._index:
                    frame = cv2.imdecode(np.frombuffer(image["bytes"] or b"", np.uint8), cv2.IMREAD_COLOR)
                    if frame is None:
                        raise SourceError(f"{self.name}: an image of {key} is damaged")
                    yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _message(header, image: np.ndarray) -> SimpleNamespace:
    """As sensor_msgs/Image has it."""
    height, width = image.shape[:2]
    data = np.ascontiguousarray(image).reshape(-1)
    return SimpleNamespace(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)
