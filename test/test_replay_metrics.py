# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Numbers against numbers made by hand; recorded commands as a controller takes them."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from replay_rig import array, joint_state, stamp, trajectory

from pi_vla_ros.replay.metrics import error_rows, error_summary, number, pooled, spread, stream_summary
from pi_vla_ros.replay.recorded import RecordedCommands, Track
from pi_vla_ros.replay.source import SourceError

S = 10**9


def sums(absolute, count=10.0):
    """(E, H, J) mean absolute errors -> sums."""
    absolute = np.asarray(absolute, float)
    full = np.full(absolute.shape, count)
    return {"count": full, "absolute": absolute * count, "squared": absolute**2 * count, "still": 2 * absolute * count}


def test_errors_per_joint_and_horizon():
    found = error_summary(sums([[[1.0, 4.0], [3.0, 4.0]]]), ["a", "b"], np.array([10.0, 1.0]))
    assert found["joints"]["a"]["mae"] == {"mean": 2.0, "low": None, "high": None}
    assert found["joints"]["a"]["mse"]["mean"] == 5.0 and found["joints"]["a"]["normalised_mae"]["mean"] == 20.0
    assert found["joints"]["b"]["standing_still_mae"]["mean"] == 8.0
    assert [row["mean"] for row in found["by_horizon"]] == [7.0, 17.0]  # (10·1 + 4) / 2, (10·3 + 4) / 2
    assert found["normalised_mae"]["mean"] == 12.0
    rows = error_rows(sums([[[1.0, 4.0], [3.0, 4.0]]]), ["a", "b"], np.array([10.0, 1.0]), 0.5)
    assert [(r["joint"], r["after_s"], r["mae"], r["normalised_mse"]) for r in rows[:2]] == [
        ("a", 0.0, 1.0, 100.0),
        ("a", 0.5, 3.0, 900.0),
    ]


def test_confidence_is_over_episodes():
    random = np.random.default_rng(0)
    totals = random.normal(1.0, 0.2, 50) * 100
    found = pooled(totals, np.full(50, 100.0))
    standard_error = 0.2 / np.sqrt(50)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * standard_error, rel=0.3)
    assert found["low"] < found["mean"] < found["high"]
    assert found == pooled(totals, np.full(50, 100.0))
    assert pooled([0.0, 5.0], [0.0, 5.0]) == {"mean": 1.0, "low": None, "high": None}  # nothing counted in the first
    assert pooled([0.0], [0.0])["mean"] is None


def test_small_things():
    assert number(float("nan")) is None and number(1 / 3) == 0.3333333
    assert spread([]) == {} and spread([1.0, np.nan, 3.0])["p50"] == 2.0
    assert stream_summary([], [], 0.0) == {"count": 0}
    stamps = [0.0, 0.1, 0.2, 0.5, 0.6, 0.55]
    found = stream_summary(stamps, [s + 0.01 for s in stamps], -1.0)
    assert found["lost"] == pytest.approx(2 / 8) and found["out_of_order"] == 1 and found["starts_after_s"] == 1.01
    assert found["late_ms"]["p50"] == pytest.approx(10)


def test_metrics_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import pi_vla_ros.replay.metrics, pi_vla_ros.replay.recorded"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_track_forgets_and_grows():
    track = Track(1)
    for k in range(20_000):
        track.add(np.array([float(k)]), np.array([[2.0 * k]]))
        track.forget(k - 100.5)
    assert track.at(np.array([19_950.25]))[0, 0] == 39_900.5 and len(track.times) < 110
    assert len(track._times) <= 4096  # a long recording needs no more
    assert np.isnan(track.at(np.array([0.0]))).all() and track.at(np.array([1e6]))[0, 0] == 39_998.0


def test_trajectories_replace_each_other():
    recorded = RecordedCommands("joint_trajectory", ["a"], 0.0, "bag")
    recorded.put(trajectory(0, np.array([1.0]), ["a"], 0), 0.0)
    recorded.put(trajectory(1 * S, np.array([2.0]), ["a"], S), 1.0)  # from 1 to 2 within a second
    recorded.put(trajectory(S + S // 2, np.array([0.5]), ["x", "a"][1:], S), 1.5)  # half-way: turns back
    recorded.finish(3.0)
    found = recorded.at(np.array([-1.0, 0.5, 1.25, 1.5, 2.0, 2.5, 2.9, 3.1]))[:, 0]
    np.testing.assert_allclose(found, [np.nan, 1.0, 1.25, 1.5, 1.0, 0.5, 0.5, np.nan])
    with pytest.raises(SourceError, match=r"bag: joint_trajectory lacks a; it has b\. .*--commands joint_states"):
        recorded.put(trajectory(3 * S, np.array([2.0]), ["b"], S), 3.0)


def test_nothing_is_known_before_it_cannot_change():
    recorded = RecordedCommands("joint_trajectory", ["a"], 0.0, "bag")
    recorded.put(trajectory(0, np.array([1.0]), ["a"], S), 0.0)
    recorded.passed(0.5)
    assert np.isfinite(recorded.at(np.array([0.0, 1.5]))).tolist() == [[False], [False]]  # no state to start from
    recorded.passed(2.0)
    assert recorded.at(np.array([1.5]))[0, 0] == 1.0


def test_a_stream_with_a_pause_is_a_step():
    recorded = RecordedCommands("commands", ["a"], 0.0, "bag")
    for at, value in ((0.0, 1.0), (0.05, 2.0), (5.0, 3.0)):
        recorded.put(array(np.array([value])), at)
    recorded.finish(6.0)
    np.testing.assert_allclose(recorded.at(np.array([0.025, 4.9, 5.5]))[:, 0], [1.5, 2.0, 3.0])
    for wrong in ([1.0, 2.0], [np.nan]):
        with pytest.raises(SourceError, match="bag: commands must have 1 finite values"):
            recorded.put(array(np.array(wrong)), 6.0)


def test_measured_states_count_earlier():
    recorded = RecordedCommands("joint_states", ["a", "b"], 0.1, "bag")
    for k in range(5):
        recorded.put(joint_state(k * S, np.array([k, 10.0 * k]), ["a", "b"]), k + 0.01)
    recorded.put(SimpleNamespace(header=SimpleNamespace(stamp=stamp(5 * S)), name=["a"], position=[0.0]), 5.0)
    recorded.finish(5.0)
    np.testing.assert_allclose(recorded.at(np.array([0.9, 1.4])), [[1.0, 10.0], [1.5, 15.0]])
    assert np.isnan(recorded.at(np.array([3.95]))).all()
