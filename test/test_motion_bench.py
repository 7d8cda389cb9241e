# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The comparison of ways to execute chunks: the same chunks for all, judged right, and ours the smoother at no more
error."""

import dataclasses
import json

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from pi_vla_ros.cli.bench_control import main
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.motion_bench.chunks import ChunksError, Latency, demonstration, synthetic
from pi_vla_ros.motion_bench.compare import Question, execute, improvement, violations
from pi_vla_ros.motion_bench.judge import Judge
from pi_vla_ros.motion_bench.methods import METHODS, OURS, Linear, Step, along
from pi_vla_ros.motion_bench.recorded import MESSAGE, Recorded
from pi_vla_ros.motion_bench.rtc import agree
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import Motion, load_robot
from pi_vla_ros.types import ActionChunk, Trajectory

SIM = load_robot("sim")
TAU, HZ = 0.05, 480.0


def question(chunks, bag=None, robot=SIM):
    return Question(robot, chunks, bag, Latency(), 0, TAU, TAU, HZ)


def ramp(stamp, slope=1.0, count=50, dt=0.02):
    """One joint that wants to be at `slope` times the time."""
    return ActionChunk(slope * (stamp + dt * np.arange(count))[:, None], stamp, dt)


def test_the_demonstration_keeps_the_limits():
    robot = load_robot("aloha")
    t, h = np.linspace(0, 60, 60001), 0.001
    motion, limits = demonstration(robot, 0)(t), Limits.of(robot)
    assert (motion > limits.low).all() and (motion < limits.high).all()
    for order, limit in enumerate((limits.velocity, limits.acceleration, limits.jerk), start=1):
        assert (np.abs(np.diff(motion, n=order, axis=0)) / h**order <= limit).all()


def test_one_inference_at_a_time_at_the_ticks():
    found = list(synthetic(SIM, 200, 0, Latency()))
    tick = 1 / SIM.timing.inference_hz
    stamps, times = (np.array([getattr(*k) for k in row]) for row in zip(
        *[((a.chunk, "stamp"), (a, "time")) for a in found], strict=True))  # fmt: skip
    np.testing.assert_allclose(stamps / tick, np.round(stamps / tick), atol=1e-6)
    assert (times > stamps).all() and (stamps[1:] >= times[:-1]).all()
    assert np.median(times - stamps) == pytest.approx(0.06, rel=0.15)
    again = list(synthetic(SIM, 200, 0, Latency()))
    assert all(
        (a.chunk.actions == b.chunk.actions).all() and a.time == b.time for a, b in zip(found, again, strict=True)
    )


def judged(commands, truth, hz=HZ, tau=TAU, limits=None, blocks=1):
    wide = Limits(*(np.array([x]) for x in (-9.0, 9.0, 1e9, 1e9, 1e12)))
    judge, times = Judge(limits or wide, hz, tau, settle=0.5), np.arange(len(commands)) / hz
    arm = [
        judge.add(*rows) for rows in zip(*(np.array_split(x, blocks) for x in (times, commands, truth)), strict=True)
    ]
    return judge.report(), np.vstack(arm)


def test_the_arm_is_a_first_order_actuator():
    """A step: the arm is on 63 % of the way after tau; a command that runs ahead by tau: no error."""
    step = (np.arange(960) >= 480)[:, None] * 1.0
    report, arm = judged(step, step)
    assert arm[480 + int(TAU * HZ), 0] == pytest.approx(1 - np.exp(-1), abs=1e-12)
    assert report["arm"]["tracking_error_max"] == pytest.approx(1.0)
    assert report["commands"]["jerk_max"] == pytest.approx(2 * HZ**3)  # +1, -2, +1
    t = np.arange(3840)[:, None] / HZ
    report, _ = judged(np.sin(t + TAU + 0.5 / HZ), np.sin(t))
    assert report["arm"]["tracking_error_max"] < 2e-3
    assert report["arm"]["jerk_max"] == pytest.approx(1.0, rel=2e-2)


@pytest.mark.parametrize("blocks", [2, 7, 400])
def test_judging_in_blocks_changes_nothing(blocks):
    commands = np.random.default_rng(0).normal(size=(960, 1)).cumsum(axis=0) * 1e-3
    whole, arm = judged(commands, 0 * commands)
    parts, same = judged(commands, 0 * commands, blocks=blocks)
    np.testing.assert_allclose(same, arm, atol=1e-12)
    for side in ("commands", "arm"):
        for name, value in whole[side].items():
            assert parts[side][name] == pytest.approx(value, rel=1e-9)


def test_commands_beyond_limits_are_counted():
    limits = Limits(*(np.array([x]) for x in (-1.0, 1.0, 2.0, 50.0, 5000.0)))
    t = np.arange(960)[:, None] / HZ
    legal = 0.5 * np.sin(2 * t)
    assert sum(judged(legal, legal, limits=limits)[0]["commands_beyond_limits"].values()) == 0
    bad = legal.copy()
    bad[400:] += 0.7
    beyond = judged(bad, legal, limits=limits)[0]["commands_beyond_limits"]
    assert beyond["position"] == int((bad[400:] > 1).sum()) > 0
    assert (beyond["velocity"], beyond["acceleration"], beyond["jerk"]) == (1, 2, 3)


def test_step_and_linear_are_what_they_say():
    times = 0.01 + np.arange(0, 480) / HZ
    for kind in (Step, Linear):
        method = kind(lead=0.0)
        method.take(ramp(0.0), 0.01)
        rows = method.at(times)[:, 0]
        jumps = np.abs(np.diff(rows))
        if kind is Step:
            assert (jumps > 0).sum() == 30 and jumps[jumps > 0] == pytest.approx(1 / 30, abs=0.021)  # rounds to actions
        else:
            np.testing.assert_allclose(rows[100:400], times[100:400], atol=1e-9)
            assert jumps.max() <= 1.75 / HZ  # the line is joined, only its slope steps
        before = rows[-1]
        method.take(ramp(1.0, slope=2.0), 1.01)
        after = method.at(1.01 + np.arange(100) / HZ)[:, 0]
        joins = method.report()["joins"]
        if kind is Step:
            assert joins == {"count": 1, "position_step": pytest.approx(1.08, abs=0.05)} | {
                "velocity_step": None, "acceleration_step": None}  # fmt: skip
        else:
            assert abs(after[0] - before) < 2 / HZ
            assert joins["position_step"] == 0 and joins["velocity_step"] > 10 and joins["acceleration_step"] is None


def test_along_is_sample():
    rng = np.random.default_rng(0)
    trajectory = Trajectory(7, 0.01, rng.normal(size=(20, 3)), rng.normal(size=(20, 3)))
    times = np.linspace(0.05, 0.3, 50)
    np.testing.assert_allclose(along(trajectory, times), [sample(trajectory, t)[0] for t in times], atol=1e-12)


def test_agreement_is_that_of_real_time_chunking():
    """Guided: 0.91 of the way to the committed actions (ten flow steps), fading; trained: all of it; both: 0 later."""
    dt = 0.02
    old, new = (ActionChunk(np.full((50, 1), x), s, dt) for x, s in ((1.0, 0.0), (0.0, 0.1)))
    motion = Motion(stitcher="rtc", rtc_horizon=10, rtc_schedule="linear")
    guided = agree(new, old, 0.08, motion).actions[:, 0]
    assert guided[:4] == pytest.approx(0.911, abs=1e-3)
    assert (np.diff(guided[3:11]) < 0).all() and (guided[10:] == 0).all()
    trained = agree(new, old, 0.08, dataclasses.replace(motion, stitcher="rtc_trained")).actions[:, 0]
    assert (trained[:4] == 1).all() and 0 < trained[5] < 1 and (trained[10:] == 0).all()
    free = agree(new, old, 0.08, dataclasses.replace(motion, rtc_max_guidance=0.0)).actions
    assert (free == 0).all()


def test_ours_is_smoother_at_no_more_error_and_within_limits():
    """The targets, small: the largest jerk 5 times below step commands, 2 times below lines, no limit passed."""
    asked = question(110, robot=load_robot("aloha"))
    rows = {name: execute(asked, name, lambda done: None)[0] for name in METHODS}
    better = improvement(rows)
    assert list(better) == list(OURS)
    for name in OURS:
        assert violations(rows[name]) == 0, name
        assert rows[name]["joins"]["count"] > 100 and not rows[name]["rejected"]
        assert rows[name]["joins"]["position_step"] < 1e-9 and rows[name]["joins"]["velocity_step"] < 1e-9
        assert better[name]["jerk_max_below_step"] > 5 and better[name]["jerk_max_below_linear"] > 2
    for name in ("blend", "temporal_ensemble"):
        assert better[name]["tracking_error_of_step"] <= 1.0 and better[name]["tracking_error_of_linear"] <= 1.05
    assert sum(rows["step"]["commands_beyond_limits"].values()) > 100


def write_bag(path, arrivals, names):
    types = get_typestore(Stores.ROS2_JAZZY)
    text = package_file("msg/ActionChunk.msg").read_text(encoding="utf-8")
    types.register(get_types_from_msg(text, MESSAGE))
    message, header, time = (types.types[t] for t in (MESSAGE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time"))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/pi_vla_ros/action_chunk", MESSAGE, typestore=types)
        for k, (chunk, received) in enumerate(arrivals):
            stamp = round((1000 + chunk.stamp) * 1e9)
            value = message(
                header=header(stamp=time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=""),
                names=names, dt=chunk.dt, horizon=len(chunk.actions), actions=chunk.actions.ravel(),
                prompt="", sequence=k + 1,
            )  # fmt: skip
            writer.write(connection, round((1000 + received) * 1e9), types.serialize_cdr(value, MESSAGE))


def test_recorded_chunks_are_executed_too(tmp_path):
    found = [(a.chunk, a.time) for a in synthetic(SIM, 80, 0, Latency())]
    found.insert(40, (found[20][0], found[39][1] + 1e-4))  # comes again, long after
    write_bag(tmp_path / "bag", found, SIM.joint_names)
    recorded = Recorded(tmp_path / "bag", SIM)
    assert recorded.count == 80
    first = next(recorded.arrivals())
    np.testing.assert_array_equal(first.chunk.actions, found[0][0].actions)
    assert first.chunk.stamp == 0 and first.time == pytest.approx(found[0][1], abs=1e-6)
    times = np.linspace(1.0, 4.0, 50)
    assert np.abs(recorded.wanted()(times) - demonstration(SIM, 0)(times)).max() < 0.08
    row, _ = execute(question(1000, tmp_path / "bag"), "blend", lambda done: None)
    assert violations(row) == 0 and row["joins"]["count"] == 80
    with pytest.raises(ChunksError, match="--robot"):
        Recorded(tmp_path / "bag", load_robot("aloha"))
    (tmp_path / "bad.mcap").write_bytes(b"no bag")
    with pytest.raises(ChunksError, match=r"bad\.mcap"):
        Recorded(tmp_path / "bad.mcap", SIM)


def test_too_few_chunks_are_refused():
    with pytest.raises(ChunksError, match="at least"):
        execute(question(10), "step", lambda done: None)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    json_file, picture = tmp_path / "b.json", tmp_path / "b.png"
    asked = ["--robot", "sim", "--chunks", "100", "--methods", "step,blend", "--jobs", "2"]
    assert main([*asked, "--json", str(json_file), "--plot", str(picture)]) == 0
    result = json.loads(json_file.read_text())
    assert list(result["methods"]) == ["step", "blend"] and result["lead_s"] == result["tau_s"] == 0.05
    assert result["improvement"]["blend"]["jerk_max_below_step"] > 5
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "limit violations of ours: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--methods", "blend,magic"], "magic: not known"),
        (["--rates", "480,fast"], "--rates"),
        (["--robot", "droid"], "velocities"),
        (["--chunks-from", "/nowhere/bag"], "/nowhere/bag"),
    ],
)
def test_refusals_say_why(arguments, said, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert said in str(refused.value.code) + capsys.readouterr().err
