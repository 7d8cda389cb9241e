# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The running mean against a numerical integral; temporal ensembling against its formula."""

import numpy as np
import pytest

from pi_vla_ros.control.ensemble import FADE, Opinion, mean
from pi_vla_ros.control.smoothing import smooth
from pi_vla_ros.control.trajectory import accelerations, jerks, peaks, sample
from pi_vla_ros.types import Trajectory

H, TICK = 1 / 120, 211200000000


def motion(seed=0, joints=3, steps=60, hardest=8.0):
    """From rest to rest with a random, constant acceleration in each step."""
    a = np.random.default_rng(seed).uniform(-hardest, hardest, (steps, joints))
    a[-1] = -a[:-1].sum(axis=0)
    a[-20:] = a[-20:].mean(axis=0)  # so that the last velocity is zero without one hard step
    v = np.vstack([np.zeros(joints), np.cumsum(a * H, axis=0)])
    v[-1] = 0.0
    p = np.vstack([np.zeros(joints), np.cumsum((v[:-1] + v[1:]) * H / 2, axis=0)])
    return Trajectory(TICK, H, p, v)


@pytest.mark.parametrize("window", [1, 2, 7, 24])
def test_it_is_the_mean_over_the_window(window):
    raw = motion()
    p, v = smooth(raw, raw.first, window)
    curve = Trajectory(raw.first, H, p, v)
    assert curve.last == raw.last + window and (v[-1] == 0).all()
    np.testing.assert_array_equal(p[-1], raw.positions[-1])
    for at in np.random.default_rng(1).uniform(-1, 80, 40):  # between knots, too
        t = (TICK + at) * H
        fine = (np.arange(4000) + 0.5) / 4000 * window * H
        expected = np.mean([sample(raw, t - back)[0] for back in fine], axis=0)
        np.testing.assert_allclose(sample(curve, t)[0], expected, atol=3e-7)


def test_acceleration_has_no_steps_and_jerk_is_bounded():
    raw, window = motion(seed=3), 12
    hardest = np.abs(accelerations(raw)[0]).max(axis=0)
    smoothed = Trajectory(TICK, H, *smooth(raw, TICK, window))
    begin, end = accelerations(smoothed)
    np.testing.assert_allclose(begin[1:], end[:-1], atol=1e-6)
    assert (jerks(smoothed) <= 2 * hardest / (window * H) * (1 + 1e-6)).all()
    assert (jerks(raw) > 4 * jerks(smoothed)).all()
    for mine, its in zip(peaks(smoothed)[2:], peaks(raw)[2:], strict=True):
        assert (mine <= its * (1 + 1e-9)).all()


def test_a_window_may_begin_before_the_motion():
    raw = motion()
    early, _ = smooth(raw, raw.first - 30, 8)
    late, _ = smooth(raw, raw.first + 5, 8)
    np.testing.assert_allclose(early[:22], np.zeros((22, 3)), atol=1e-14)
    np.testing.assert_allclose(early[35:], late, atol=1e-14)


def opinion(first, length, position, count=100, rate=0.0):
    t = np.arange(count)[:, None] * H
    return Opinion(first, first + length, position + rate * t, np.full((count, 1), rate))


def test_an_ensemble_is_acts_weighted_mean():
    said = (opinion(0, 99, 1.0), opinion(4, 99, 2.0), opinion(8, 99, 4.0))
    alive, positions, rates = mean(said, 8, 20, H, decay=0.5)
    w = np.exp(-0.5 * np.arange(3))
    assert len(alive) == 3
    np.testing.assert_allclose(positions[:20, 0], (w @ [1.0, 2.0, 4.0]) / w.sum())
    np.testing.assert_allclose(rates[:20], 0.0, atol=1e-12)


def test_a_chunk_leaves_the_ensemble_without_a_step():
    said = (opinion(0, 50, 1.0, rate=0.3), opinion(10, 90, 2.0, rate=-0.2))
    _, positions, rates = mean(said, 10, 80, H, decay=0.1)
    slope = np.gradient(positions[:, 0], H)
    smooth = np.r_[1:28, 33:37, 43:79]  # the fade runs from tick 40 to 50: kinks at 30 and 40 of these
    np.testing.assert_allclose(slope[smooth], rates[smooth, 0], atol=0.05)
    assert np.abs(np.diff(positions[:, 0])).max() < 1.1 / (FADE * 50)  # a fade, no jump of 0.5
    np.testing.assert_allclose(positions[45:, 0], said[1].positions[45:80, 0])
    assert mean(said, 50, 10, H, 0.1)[0] == said[1:]
