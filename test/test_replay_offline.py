# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Recordings through the twin: a policy that knows the demonstration has no error, the same input gives the same bytes,
and a recording that cannot be used does not stop the others."""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from replay_rig import BEGIN, SLOTS, TYPES, Knows, array, messages, motion, text, write_bag
from rosbags.rosbag2 import Reader

from pi_vla_ros.cli.replay import main
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.episode import Evaluation
from pi_vla_ros.replay.jobs import gpu_of
from pi_vla_ros.replay.source import SourceError
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import Replay
from pi_vla_ros.types import seconds

DT = 0.1  # s, robot 'sim'


class Recording:
    """Rows in memory as a source."""

    def __init__(self, rows, commands):
        from pi_vla_ros.replay.source import Event

        kinds = {f"/cameras/{s}/image_raw": ("image", f"{s}_0_rgb") for s in SLOTS}
        kinds |= {"/joint_states": ("state", ""), "/prompt": ("prompt", "")}
        self.name, self.commands, self.start, self.end = "memory", commands, rows[0][2], rows[-1][2] + 1
        self._events = []
        for topic, _, received, message in rows:
            self._events.append(Event(received, *kinds.get(topic, ("command", "")), message))
            if topic == "/joint_states" and commands == "joint_states":
                self._events.append(Event(received, "command", "", message))

    def events(self):
        return iter(self._events)


def evaluate(robot, rows, commands="joint_trajectory", policy=None, delays=(0.033,), prompt=""):
    policy = policy or Knows(DT)
    return Evaluation(Recording(rows, commands), robot, policy, np.ones(8), prompt, list(delays)).run(lambda done: None)


@pytest.mark.parametrize("commands", ["joint_trajectory", "commands", "joint_states"])
def test_who_knows_the_demonstration_has_no_error(commands, sim_robot):
    robot = dataclasses.replace(sim_robot, replay=Replay(commands=commands, shift=0.1))
    episode = evaluate(robot, messages(robot.joint_names, 6.0, commands), commands)
    assert episode.summary["inferences"] > 80 and episode.summary["compared"] > 60
    worst = (episode.sums.absolute / episode.sums.count).max()
    assert worst < 2e-3  # linear between commands 40 ms apart
    assert (episode.sums.still.sum((0, 1)) > 10 * episode.sums.absolute.sum((0, 1))).all()
    states = episode.summary["state_s"]
    assert states["RUNNING"] > 0.9 * sum(states.values())
    # after the start ramp the arm is where the demonstrator's was
    late = (episode.curves["time"] > 2.5) & np.isfinite(episode.curves["recorded"]).all(axis=1)
    np.testing.assert_allclose(episode.curves["commanded"][late], episode.curves["recorded"][late], atol=5e-3)


def test_a_known_error_is_found(sim_robot):
    error = np.array([0.1, 0, 0, 0, 0, 0, 0, 0.01])
    rows = messages(sim_robot.joint_names, 4.0, "joint_trajectory")
    episode = evaluate(sim_robot, rows, policy=Knows(DT, error=error))
    found = episode.sums.absolute.sum(0) / episode.sums.count.sum(0)
    np.testing.assert_allclose(found, error, atol=2e-3)
    squared = episode.sums.squared.sum(0) / episode.sums.count.sum(0)
    np.testing.assert_allclose(squared, error**2, atol=1e-3)
    assert episode.worst[0].score == pytest.approx(error.mean(), abs=2e-3)
    assert all(picture.startswith(b"\xff\xd8") for picture in episode.worst[0].pictures.values())
    assert set(episode.worst[0].pictures) == set(sim_robot.cameras)


def test_actions_that_are_velocities(sim_robot):
    velocity = dataclasses.replace(sim_robot.joints[0].action, kind="velocity")
    robot = dataclasses.replace(
        sim_robot, joints=tuple(dataclasses.replace(j, action=velocity) for j in sim_robot.joints)
    )

    class KnowsVelocities(Knows):
        def infer(self, observation, previous=None, delay=0.0):
            chunk = super().infer(observation)
            times = observation.stamp - self.begin + np.arange(self.horizon) * DT
            return dataclasses.replace(chunk, actions=(motion(times + DT) - motion(times)) / DT)

    episode = evaluate(robot, messages(robot.joint_names, 4.0, "joint_trajectory"), policy=KnowsVelocities(DT))
    assert (episode.sums.absolute / episode.sums.count).max() < 2e-2


def test_delay_takes_ticks_and_the_motion_strays(sim_robot):
    rows = messages(sim_robot.joint_names, 4.0, "joint_trajectory")
    summary = evaluate(sim_robot, rows, delays=(0.05, 0.0, 0.2, 0.7)).summary
    by_delay = {row["delay_ms"]: row for row in summary["by_delay"]}
    assert summary["busy_ticks"] == pytest.approx(summary["inferences"], abs=2)  # every second tick finds it busy
    assert by_delay[0.0]["chunks"] > by_delay[200.0]["chunks"] > by_delay[700.0]["chunks"]
    assert by_delay[700.0]["not_running_s"] > by_delay[0.0]["not_running_s"] + 1
    steps = summary["joins"]
    assert steps["position_step"]["max"] < 1e-9 < steps["position_step_unstitched"]["max"]


def test_prompts_as_recorded_or_as_given(sim_robot):
    rows = messages(sim_robot.joint_names, 2.0, "joint_trajectory")
    middle = len(rows) // 2
    at = rows[middle][2]
    rows[middle:middle] = [("/prompt", "", at, text("bad")), ("/prompt", "", at, text("wave"))]
    policy = Knows(DT)
    episode = evaluate(sim_robot, rows, policy=policy)
    assert [policy.seen[0].prompt, policy.seen[-1].prompt] == ["pick up the red block", "wave"]
    assert episode.summary["drops"]["prompt_refused"] == 1
    policy = Knows(DT)
    evaluate(sim_robot, rows, policy=policy, prompt="fold")
    assert {o.prompt for o in policy.seen} == {"fold"}


def test_cameras_that_start_late_and_stamps_out_of_order(sim_robot):
    rows = messages(sim_robot.joint_names, 4.0, "joint_trajectory", camera_starts=(0.0, 1.0, 2.0))
    images = [k for k, row in enumerate(rows) if row[0] == "/cameras/base/image_raw"]
    a, b = images[40], images[41]
    rows[a], rows[b] = (*rows[a][:3], rows[b][3]), (*rows[b][:3], rows[a][3])
    summary = evaluate(sim_robot, rows).summary
    cameras = summary["cameras"]
    assert cameras["right_wrist_0_rgb"]["starts_after_s"] == pytest.approx(2.0, abs=0.1)
    assert summary["drops"]["camera_missing"] == pytest.approx(60, abs=3)
    assert summary["drops"]["image_out_of_order"] == 1 == cameras["base_0_rgb"]["out_of_order"]


def test_stamps_of_another_clock_are_told(sim_robot):
    rows = messages(sim_robot.joint_names, 2.0, "joint_trajectory")
    for _, _, _, message in rows:
        message.header.stamp.sec -= 1_000_000
    words = r"memory: no inference in .* image_too_old .*'base_0_rgb'.*cameras/base/image_raw"
    with pytest.raises(SourceError, match=words):
        evaluate(sim_robot, rows)


# --- from the command line ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bags(sim_robot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for k, storage in enumerate(("mcap", "sqlite3")):
        write_bag(folder / f"episode_{k}", messages(sim_robot.joint_names, 2.0 + k, "joint_trajectory"), storage)
    return folder


def replay(checkpoint, bags, out, *more):
    common = ["--robot", "sim", "--checkpoint", checkpoint, "--steps", 1, "--target", "cpu", "--out", out]
    return main([*map(str, common), "--bag", *map(str, bags), *map(str, more)])


@pytest.fixture(scope="module")
def first(tiny_checkpoint, bags, tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "out"
    assert replay(tiny_checkpoint(), [bags], out) == 0
    return out


def test_what_is_written(first, sim_robot):
    summary = json.loads((first / "summary.json").read_text())
    assert summary["recordings"] == 2 and not summary["failed"]
    assert summary["verdict"]["caveat"].startswith("Open loop")
    joints = summary["errors"]["joints"]
    assert list(joints) == sim_robot.joint_names and joints["joint1"]["mae"]["low"] is not None
    lines = (first / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("joint,step,after_s,count,mae") and len(lines) == 1 + 8 * 50
    report = (first / "report.html").read_text()
    assert "data:image/png;base64," in report and "data:image/jpeg;base64," in report and "://" not in report
    assert "Open loop" in report and "episode_1" in report and "On this machine inference took" in report
    timing = json.loads((first / "timing.json").read_text())
    assert len(timing) == 2 and all(t["total_ms"]["p99"] > 0 for t in timing.values())


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_again_byte_for_byte(jobs, first, tiny_checkpoint, bags, tmp_path):
    assert replay(tiny_checkpoint(), [bags], tmp_path / "out", "--jobs", jobs) == 0
    for name in ("summary.json", "metrics.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (first / name).read_bytes()


def test_what_is_done_is_not_done_again(first, tiny_checkpoint, bags, capsys):
    before = {p: p.stat().st_mtime_ns for p in (first / "bags").rglob("summary.json")}
    written = (first / "summary.json").read_bytes()
    assert replay(tiny_checkpoint(), [bags], first) == 0
    assert "2 of 2 recordings are evaluated already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before and (first / "summary.json").read_bytes() == written


def test_a_bad_bag_does_not_stop_the_others(tiny_checkpoint, bags, tmp_path, capsys):
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\nnothing more")
    assert replay(tiny_checkpoint(), [tmp_path, bags / "episode_0"], tmp_path / "out") == 1
    assert "broken.mcap: cannot be opened" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["failed"]) == [str(tmp_path / "broken.mcap")] and summary["recordings"] == 1
    with pytest.raises(SystemExit) as ended:
        replay(tiny_checkpoint(), [tmp_path / "broken.mcap"], tmp_path / "none")
    assert ended.value.code == 2 and "no recording could be evaluated" in capsys.readouterr().err
    assert not (tmp_path / "none" / "summary.json").exists()


def test_predictions_as_topics(tiny_checkpoint, bags, tmp_path, sim_robot):
    assert replay(tiny_checkpoint(), [bags / "episode_0"], tmp_path / "out", "--mcap", "--no-delays") == 0
    (bag,) = (tmp_path / "out").glob("bags/*/predictions")
    summary = json.loads((bag.parent / "summary.json").read_text())
    with Reader(bag) as reader:
        rows = [(c.topic, t, TYPES.deserialize_cdr(data, c.msgtype)) for c, t, data in reader.messages()]
    predicted = [(t, m) for topic, t, m in rows if topic == "/replay/predicted"]
    assert len(predicted) == summary["inferences"] > 20
    first = predicted[0][1]
    assert first.joint_names == sim_robot.joint_names and len(first.points) == 50
    assert first.points[3].time_from_start.nanosec == 300_000_000 and BEGIN <= predicted[0][0] < BEGIN + 10**9
    demonstrated = [(seconds(m.header.stamp), m.position) for topic, _, m in rows if topic == "/replay/demonstrated"]
    times, positions = (np.array(x) for x in zip(*demonstrated, strict=True))
    late = times > BEGIN * 1e-9 + 0.2
    np.testing.assert_allclose(positions[late], motion(times[late] - BEGIN * 1e-9), atol=2e-3)


def test_rows_for_analysis(first):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = parquet.read_table(first / "metrics.parquet").to_pylist()
    assert len(rows) == 2 * 8 * 50
    of = [r for r in rows if r["joint"] == "joint2" and r["step"] == 4]
    pooled = sum(r["mae"] * r["count"] for r in of) / sum(r["count"] for r in of)
    line = next(x for x in (first / "metrics.csv").read_text().splitlines() if x.startswith("joint2,4,"))
    assert float(line.split(",")[4]) == pytest.approx(pooled, rel=1e-5)


def cut(bag, share):
    file = next(p for p in bag.iterdir() if p.suffix == ".mcap")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


@pytest.mark.slow
def test_every_kind_of_bad_bag_beside_a_good_one(tiny_checkpoint, sim_robot, tmp_path, capsys):
    names = sim_robot.joint_names
    rows = messages(names, 1.5, "joint_trajectory")
    folder = tmp_path / "bags"
    folder.mkdir()
    write_bag(folder / "good", rows)
    cut(write_bag(folder / "truncated", rows), 0.7)
    (folder / "empty.mcap").write_bytes(b"")
    write_bag(folder / "no_message", [], counts=[("/joint_states", "sensor_msgs/msg/JointState")])
    write_bag(folder / "one_message", rows[:1])
    write_bag(folder / "no_camera", [r for r in rows if r[0] != "/cameras/left_wrist/image_raw"])
    write_bag(folder / "no_commands", [r for r in rows if r[0] != "/joint_trajectory"])
    kind = "std_msgs/msg/Float64MultiArray"
    wrong = [(t, kind, at, array(np.zeros(8))) if t == "/joint_states" else (t, k, at, m) for t, k, at, m in rows]
    write_bag(folder / "wrong_type", wrong)
    other = messages([f"other{n}" for n in names], 1.5, "joint_trajectory")
    write_bag(folder / "other_joints", [r if r[0].startswith("/cam") else o for r, o in zip(rows, other, strict=True)])
    late = [r for r in rows if r[0] != "/cameras/right_wrist/image_raw" or r[2] > BEGIN + 10**9]
    write_bag(folder / "camera_starts_late", late)
    turned = [(t, k, rows[-1 - i][2], m) if 40 < i < 60 else (t, k, at, m) for i, (t, k, at, m) in enumerate(rows)]
    write_bag(folder / "out_of_order", turned)
    assert replay(tiny_checkpoint(), [folder], tmp_path / "out", "--no-delays") == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    used = [e["recording"].rpartition("/")[2] for e in summary["episodes"]]
    assert used == ["camera_starts_late", "good", "out_of_order"]
    reasons = {path.rpartition("/")[2]: reason for path, reason in summary["failed"].items()}
    words = {
        "truncated": "truncated, or still being recorded",
        "empty.mcap": "cannot be opened",
        "no_message": "holds no message",
        "one_message": "no messages on /",
        "no_camera": "no messages on /cameras/left_wrist/image_raw (camera left_wrist_0_rgb, sensor_msgs/msg/Image)",
        "no_commands": "no commands: neither joint_trajectory nor commands is in the bag, which has /cameras/base",
        "wrong_type": "/joint_states (joint states) is std_msgs/msg/Float64MultiArray",
        "other_joints": "joint_trajectory lacks joint1",
    }
    assert set(reasons) == set(words)
    told = capsys.readouterr().out.replace("\n", "")
    for name, expected in words.items():
        assert expected in reasons[name] and str(folder / name) in reasons[name] and reasons[name] in told
    late = next(e for e in summary["episodes"] if e["recording"].endswith("late"))
    assert late["drops"]["camera_missing"] > 20
    assert not list((tmp_path / "out").rglob("*.part"))
    report = (tmp_path / "out" / "report.html").read_text()
    assert all(str(folder / name) in report for name in words)


def test_a_full_disk_leaves_nothing_half_written(tiny_checkpoint, bags, tmp_path, capsys, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device", "arrays.npz")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(SystemExit) as ended:
        replay(tiny_checkpoint(), [bags / "episode_0"], tmp_path / "out")
    assert ended.value.code == 2 and "arrays.npz: No space left on device" in capsys.readouterr().err
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_processes_share_the_gpus():
    assert [gpu_of(k, {}, 2) for k in range(3)] == ["0", "1", "0"]
    assert [gpu_of(k, {"CUDA_VISIBLE_DEVICES": "3,5"}, 2) for k in range(3)] == ["3", "5", "3"]
    assert gpu_of(0, {}, 0) is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_checkpoint_that_does_not_fit_is_told_once(jobs, bags, tiny_checkpoint, tmp_path, capsys):
    robot = yaml.safe_load(package_file("config/robots/sim.yaml").read_text())
    robot["joints"].pop()
    (tmp_path / "seven.yaml").write_text(yaml.safe_dump(robot))
    with pytest.raises(SystemExit) as ended:
        replay(tiny_checkpoint(), [bags], tmp_path / "out", "--jobs", jobs, "--robot", tmp_path / "seven.yaml")
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in told and "7 joints" in told


@pytest.mark.parametrize(("option", "value"), [("--delay", -1), ("--jobs", 0), ("--shift", "nan")])
def test_bad_options(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        replay(tmp_path, [tmp_path], tmp_path, option, value)
    assert ended.value.code == 2 and option in capsys.readouterr().err


def test_the_beginning_is_the_bags(sim_robot, bags):
    source = BagSource(bags / "episode_0", sim_robot)
    assert source.start == BEGIN


def test_a_checkpoint_that_is_not_there_is_named_before_anything_is_written(bags, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        replay(tmp_path / "nowhere", [bags], tmp_path / "out")
    assert ended.value.code == 2 and f"{tmp_path / 'nowhere'}: does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
