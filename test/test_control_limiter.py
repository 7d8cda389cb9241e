# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The limits hold whatever is asked, the reference is followed where they allow it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.control.limiter import Limits, brake, braking_steps, follow
from pi_vla_ros.control.trajectory import peaks
from pi_vla_ros.types import Trajectory

H = 1 / 120
LIMITS = Limits(np.array([-1.0, -0.2]), np.array([1.0, 0.3]), np.array([2.0, 0.5]), np.array([8.0, 3.0]))


def check(p0, v0, positions, velocities, limits=LIMITS, slack=1e-9):
    """Limits of the whole curve from p0, v0 on: cubic Hermite between the steps, extremes taken exactly."""
    curve = Trajectory(0, H, np.vstack([p0, positions]), np.vstack([v0, velocities]))
    low, high, speed, acceleration = peaks(curve)
    assert (low >= limits.low - slack).all() and (high <= limits.high + slack).all()
    assert (speed <= limits.velocity * (1 + 1e-9)).all()
    assert (acceleration <= limits.acceleration * (1 + 1e-6)).all()


wild = st.one_of(st.floats(-2, 2), st.floats(-1e9, 1e9), st.sampled_from([0.0, -1.0, 1.0, 0.3, -0.2, 1e9, -1e9]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(wild, wild, wild, wild), min_size=1, max_size=60),
    st.floats(-0.15, 0.25),
    st.integers(1, 8),
)
def test_limits_hold_for_any_reference(rows, start, repeat):
    rows = np.repeat(np.array(rows), repeat, axis=0)
    p0, v0 = np.array([start, start]), np.zeros(2)
    limited = follow(p0, v0, rows[:, :2], rows[:, 2:], LIMITS, H)
    check(p0, v0, limited.positions, limited.velocities)
    positions, velocities = brake(limited.positions[-1], limited.velocities[-1], LIMITS, H)
    check(limited.positions[-1], limited.velocities[-1], positions, velocities)
    assert (velocities[-1] == 0).all() and len(positions) <= braking_steps(LIMITS, H)


def test_a_feasible_reference_is_followed_exactly():
    t = np.arange(1, 200)[:, None] * H
    target, rate = 0.2 * (1 - np.cos(3 * t)) * [1, 0.5], 0.6 * np.sin(3 * t) * [1, 0.5]
    limited = follow(np.zeros(2), np.zeros(2), target, rate, LIMITS, H)
    assert np.abs(limited.positions - target).max() < 1e-4  # a parabola a step
    assert not limited.cut.any()


def test_a_step_is_reached_in_minimum_time_without_overshoot():
    """0.5 rad at v <= 2, a <= 8 with 80 % of the acceleration for the approach: about 0.5 s; never beyond."""
    target = np.tile([0.5, 0.1], (120, 1))
    limited = follow(np.zeros(2), np.zeros(2), target, np.zeros_like(target), LIMITS, H)
    assert limited.positions[:, 0].max() <= 0.5 + 1e-12
    arrived = np.argmax(np.abs(limited.positions[:, 0] - 0.5) < 1e-6) * H
    fastest = np.sqrt(0.5 / 8) + np.sqrt(0.5 / 6.4)  # accelerate at 8, brake at 0.8 · 8, about triangular
    assert fastest * 0.95 < arrived < fastest * 1.15
    assert (limited.cut[2, :5, 0] > 0).all()  # the acceleration limit is what holds it back


def test_outside_the_range_it_only_comes_back():
    """A measured start beyond a limit is neither a jump nor a way further out."""
    p0, v0 = np.array([1.2, 0.0]), np.zeros(2)
    target = np.tile([2.0, 0.0], (60, 1))
    limited = follow(p0, v0, target, np.zeros_like(target), LIMITS, H)
    assert limited.positions[:, 0].max() <= 1.2 + 1e-12
    back = follow(p0, v0, np.tile([0.9, 0.0], (120, 1)), np.zeros((120, 2)), LIMITS, H)
    assert back.positions[-1, 0] == pytest.approx(0.9, abs=1e-9)
    assert (np.abs(np.diff(np.vstack([v0, back.velocities]), axis=0)) <= LIMITS.acceleration * H + 1e-12).all()


def test_brake_is_as_hard_as_allowed():
    positions, velocities = brake(np.zeros(2), np.array([2.0, -0.5]), LIMITS, H)
    assert len(positions) == 30  # 2 / 8 s
    assert positions[-1, 0] == pytest.approx(2.0**2 / (2 * 8), rel=1e-9)
    assert positions[-1, 1] == pytest.approx(-(0.5**2) / (2 * 3), rel=1e-9)
    assert (velocities[-1] == 0).all()


def test_clips_name_the_limit():
    fast = follow(np.zeros(2), np.array([2.0, 0.0]), np.full((3, 2), 9.0), np.full((3, 2), 9.0), LIMITS, H)
    assert fast.cut[0, :, 0].any() or fast.cut[1, :, 0].any()
    far = follow(np.array([0.99, 0.0]), np.zeros(2), np.full((40, 2), 5.0), np.zeros((40, 2)), LIMITS, H)
    assert far.cut[0, :, 0].any()
