# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The comparison of ways to execute chunks: the same chunks for all, and ours the smoother at no more error."""

import json

import numpy as np
import pytest

from pi_vla_ros.cli.bench_control import main
from pi_vla_ros.control.planner import Planner
from pi_vla_ros.control.quality import METHODS, arrivals, demonstration, judge
from pi_vla_ros.robot import load_robot


def test_the_demonstration_keeps_the_limits():
    robot = load_robot("aloha")
    t = np.linspace(0, 60, 60001)
    motion, limits, h = demonstration(robot, 0)(t), Planner(robot).limits, 0.001
    assert (motion > limits.low).all() and (motion < limits.high).all()
    assert (np.abs(np.diff(motion, axis=0)) / h <= limits.velocity).all()
    assert (np.abs(np.diff(motion, n=2, axis=0)) / h**2 <= limits.acceleration).all()


def test_chunks_arrive_in_order_after_their_observation():
    found = arrivals(load_robot("sim"), 200, 0)
    times = [a.time for a in found]
    assert times == sorted(times) and len(found) > 150
    assert all(a.time > a.chunk.stamp for a in found)


def test_judge_by_hand():
    """A command that is the truth, with a fast actuator: no error; a step: its size."""
    t = np.arange(0, 3, 1 / 480)
    calm = np.zeros((len(t), 1))
    assert judge(t, calm, calm, 0.05)["jerk_max"] == 0
    step = (t > 2)[:, None] * 0.5
    judged = judge(t, step, step, 1e-4)
    assert judged["position_step_max"] == 0.5 and judged["velocity_step_max"] == pytest.approx(240)
    assert judged["tracking_rms"] < 1e-3


def test_ours_is_smoother_at_no_more_error(tmp_path, capsys):
    assert main(["--chunks", "90", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["methods"]
    assert list(rows) == list(METHODS)
    ours, steps, linear = rows["blend"], rows[METHODS[0]], rows[METHODS[1]]
    assert ours["limit_violations"] == 0 and rows["hold_and_replace"]["limit_violations"] == 0
    assert 5 * ours["jerk_max"] < steps["jerk_max"] and 2 * ours["jerk_max"] < linear["jerk_max"]
    assert ours["tracking_rms"] <= linear["tracking_rms"] * 1.05
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "jerk max" in capsys.readouterr().out
