# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The measurement of the stream: right from known times, and real processes that leave nothing behind. How even the
commands are is for a quiet machine to say (docs/bench/control.md), not for a test."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")

from pi_vla_ros.cli.bench_control import main
from pi_vla_ros.ros.stream_timing import PUBLISHERS, Case, _stolen, measure, summary

pytestmark = pytest.mark.ros


def test_summary_by_hand():
    """1000 ticks at 100 Hz, of which ten in a row are missing; everything is 3 ms under way."""
    computed = np.delete(np.arange(1000) / 100.0, np.arange(500, 510))
    found = summary(computed, computed + 0.003, 100.0, 10.0)
    assert found["commands"] == 990 and found["share_of_ticks"] == pytest.approx(0.99)
    for side in ("computed_ms", "arrived_ms"):
        assert found[side]["p50"] == pytest.approx(10.0) and found[side]["p99"] == pytest.approx(10.0)
        assert found[side]["max"] == pytest.approx(110.0)
    assert found["underway_ms"]["max"] == pytest.approx(3.0)


def test_stolen_by_hand():
    before = np.array([100.0, 0, 50, 800, 0, 0, 0, 10])
    assert _stolen(before, before + np.array([20, 0, 10, 60, 0, 0, 0, 10])) == pytest.approx(0.1)
    assert _stolen(None, before) is None and _stolen(before, before[:7]) is None


@pytest.mark.slow
@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_run_counts_what_was_sent(publisher):
    found = measure(Case(publisher, 50.0, loaded=True), 2.0)
    assert 10 <= found["commands"] <= 101 and found["share_of_ticks"] == found["commands"] / 100
    assert 0 < found["underway_ms"]["p50"] < 500
    assert found["images_per_s"] > 0 and 0 <= found["stolen"] < 1
    assert ("streamer_says_ms" in found) == (publisher == "streamer")


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    asked = ["--stream", "--rates", "100", "--seconds", "1", "--json", str(tmp_path / "s.json")]
    assert main([*asked, "--plot", str(tmp_path / "s.png")]) == 0
    result = json.loads((tmp_path / "s.json").read_text())
    assert [(r["publisher"], r["loaded"]) for r in result["rows"]] == [
        (p, k) for k in (False, True) for p in PUBLISHERS
    ]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "% of ticks" in capsys.readouterr().out
