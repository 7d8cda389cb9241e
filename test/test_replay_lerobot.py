# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a LeRobot dataset, both layouts, as a second source: a policy that knows them has no error."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

import pyarrow as pa
import pyarrow.parquet as parquet
from replay_rig import Knows, motion

from pi_vla_ros.cli.replay import main
from pi_vla_ros.replay.episode import Evaluation
from pi_vla_ros.replay.lerobot import EpisodeSource, find_episodes, is_episode
from pi_vla_ros.replay.source import SourceError
from pi_vla_ros.robot import Action, State

FPS, FRAMES, EPISODES = 10, 40, 2
NAMES = {"base_0_rgb": "top", "left_wrist_0_rgb": "left_wrist_0_rgb", "right_wrist_0_rgb": "right_wrist_0_rgb"}
RENAME = {"top": "base_0_rgb"}


def picture(episode, k):
    return np.full((24, 32, 3), (20 + 5 * k % 200, 60 * episode, 90), np.uint8)


def write(folder, version, video=False, joints=8):
    """Two episodes of the known motion; the state is 0.1 s behind."""
    (folder / "meta").mkdir(parents=True)
    keys = [f"observation.images.{name}" for name in NAMES.values()]
    features = {"observation.state": {"shape": [joints]}, "action": {"shape": [joints]}}
    features |= {key: {"dtype": "video" if video else "image"} for key in keys}
    info = {"codebase_version": version, "fps": FPS, "total_episodes": EPISODES, "features": features}
    v2 = version.startswith("v2")
    if v2:
        info |= {"chunks_size": 1000, "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "wave"}\n')
    else:
        info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        parquet.write_table(pa.table({"task_index": [0], "__index_level_0__": ["wave"]}), folder / "meta/tasks.parquet")
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    rows = [rows_of(e, joints, [] if video else keys) for e in range(EPISODES)]
    (folder / "data/chunk-000").mkdir(parents=True)
    if v2:
        for e, found in enumerate(rows):
            parquet.write_table(pa.Table.from_pylist(found), folder / f"data/chunk-000/episode_{e:06d}.parquet")
    else:
        parquet.write_table(pa.Table.from_pylist([*rows[0], *rows[1]]), folder / "data/chunk-000/file-000.parquet")
        (folder / "meta/episodes/chunk-000").mkdir(parents=True)
        about = [place(e, keys if video else []) for e in range(EPISODES)]
        parquet.write_table(pa.Table.from_pylist(about), folder / "meta/episodes/chunk-000/file-000.parquet")
    for key in keys if video else []:
        if v2:
            for e in range(EPISODES):
                write_video(folder / f"videos/chunk-000/{key}/episode_{e:06d}.mp4", [e])
        else:
            write_video(folder / f"videos/{key}/chunk-000/file-000.mp4", range(EPISODES))
    return folder


def rows_of(episode, joints, keys):
    found = []
    for k in range(FRAMES):
        image = {"bytes": cv2.imencode(".png", picture(episode, k)[..., ::-1])[1].tobytes(), "path": ""}
        row = {"observation.state": motion(k / FPS - 0.1, joints).tolist(), "action": motion(k / FPS, joints).tolist()}
        row |= {"timestamp": k / FPS, "task_index": 0, "episode_index": episode, "frame_index": k}
        found.append(row | dict.fromkeys(keys, image))
    return found


def place(episode, keys):
    row = {"episode_index": episode, "data/chunk_index": 0, "data/file_index": 0}
    for key in keys:
        row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
        row[f"videos/{key}/from_timestamp"] = episode * FRAMES / FPS
    return row


def write_video(path, episodes):
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (32, 24))
    for e in episodes:
        for k in range(FRAMES):
            video.write(np.ascontiguousarray(picture(e, k)[..., ::-1]))
    video.release()


@pytest.mark.parametrize("video", [False, True], ids=["images", "video"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_who_knows_the_dataset_has_no_error(version, video, sim_robot, tmp_path):
    dataset = write(tmp_path / "set", version, video)
    paths = find_episodes(dataset)
    assert len(paths) == EPISODES and all(map(is_episode, paths))
    policy = Knows(1 / FPS, begin=1.0)
    source = EpisodeSource(paths[1], sim_robot, RENAME)
    episode = Evaluation(source, sim_robot, policy, np.ones(8), "", [0.033]).run(lambda done: None)
    assert episode.summary["inferences"] == FRAMES and episode.summary["prompt"] == "wave"
    assert (episode.sums.absolute / np.maximum(episode.sums.count, 1)).max() < 1e-6
    for k in (0, FRAMES - 2):
        seen = policy.seen[k].images["base_0_rgb"].astype(int).mean(axis=(0, 1))
        np.testing.assert_allclose(seen, picture(1, k)[0, 0], atol=6)  # lossy
    np.testing.assert_allclose(policy.seen[5].state, motion(0.4))


def test_units_of_the_policy_are_converted_back(sim_robot, tmp_path):
    dataset = write(tmp_path / "set", "v2.1")
    joints = tuple(
        dataclasses.replace(j, state=State(scale=2.0, offset=1.0), action=Action(scale=0.5, offset=-1.0))
        for j in sim_robot.joints
    )
    source = EpisodeSource(find_episodes(dataset)[0], dataclasses.replace(sim_robot, joints=joints), RENAME)
    events = list(source.events())
    np.testing.assert_allclose(next(e for e in events if e.kind == "state").message.position, (motion(-0.1) - 1) / 2)
    np.testing.assert_allclose(next(e for e in events if e.kind == "command").message.data, motion(0.0) / 2 - 1)


def test_start_duration_and_episodes(sim_robot, tmp_path):
    dataset = write(tmp_path / "set", "v2.1")
    (path,) = find_episodes(dataset, [1])
    source = EpisodeSource(path, sim_robot, RENAME, start=1.0, duration=2.0)
    assert sum(e.kind == "state" for e in source.events()) == 20
    with pytest.raises(SourceError, match="has episodes 0 to 1, not 7"):
        find_episodes(dataset, [7])


def test_what_does_not_fit_is_told(sim_robot, tmp_path):
    dataset = write(tmp_path / "set", "v2.1")
    path = find_episodes(dataset)[0]
    with pytest.raises(SourceError, match=r"no camera for base_0_rgb; the dataset has top, .*--camera SLOT=NAME"):
        EpisodeSource(path, sim_robot, {})
    small = find_episodes(write(tmp_path / "small", "v3.0", joints=7))[0]
    with pytest.raises(SourceError, match=r"observation\.state has shape \[7\]; robot 'sim' has 8 joints"):
        EpisodeSource(small, sim_robot, RENAME)
    data = next(dataset.rglob("episode_000000.parquet"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(SourceError, match=r"episode_000000\.parquet: cannot be read"):
        EpisodeSource(path, sim_robot, RENAME)
    with pytest.raises(SourceError, match="not a LeRobot dataset"):
        find_episodes(tmp_path)


@pytest.mark.slow
def test_from_the_command_line(tiny_checkpoint, tmp_path):
    dataset = write(tmp_path / "set", "v3.0", video=True)
    common = ["--robot", "sim", "--checkpoint", str(tiny_checkpoint()), "--steps", "1", "--target", "cpu"]
    more = ["--dataset", str(dataset), "--camera", "base_0_rgb=top", "--no-delays", "--out", str(tmp_path / "out")]
    assert main([*common, *more]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [e["recording"] for e in summary["episodes"]] == [str(dataset / f"episode_{k:06d}") for k in range(2)]
