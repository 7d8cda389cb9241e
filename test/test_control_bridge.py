# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ways between states of motion: a stop always exists and is the quickest, a crossing is within what it says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.control.bridge import Crossings, Stop, patience
from pi_vla_ros.control.halt import halt, ruckig
from pi_vla_ros.control.limiter import Limits

JOINTS = 14


def limits_of(rng, joints=JOINTS):
    """From a gripper's to an unlimited joint's."""
    a = 10 ** rng.uniform(-2, 3, joints)
    return Limits(
        np.full(joints, -1e6), np.full(joints, 1e6), 10 ** rng.uniform(-3, 3, joints), a, a * 10 ** rng.uniform(0, 4)
    )


def state_of(rng, limits):
    """A legal one, some joints at rest, some at their limits to the last digit and beyond."""
    share = rng.uniform(-1, 1, (2, len(limits.low))) * rng.choice([0.0, 1.0, 1.0], (2, 1))
    share = np.where(rng.random(share.shape) < 0.2, np.sign(share) * 1.001, share)
    return np.stack([rng.normal(size=len(limits.low)), share[0] * limits.velocity, share[1] * limits.acceleration])


def along(way, count=301):
    times = np.linspace(0, way.duration, count)
    return times, np.array([way.at_time(t) for t in times])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_stop_keeps_the_limits_and_its_extremes_are_exact(seed):
    rng = np.random.default_rng(seed)
    limits = limits_of(rng)
    state = state_of(rng, limits)
    stop = Stop(state, limits)
    way = stop.way
    times, states = along(way)
    np.testing.assert_array_equal(states[0], state)
    np.testing.assert_array_equal(states[-1], [stop.end, 0 * stop.end, 0 * stop.end])
    p, v, a = states.transpose(1, 0, 2)
    dt = times[1] - times[0]
    assert (np.abs(a) <= np.maximum(limits.acceleration, np.abs(state[2])) * (1 + 1e-9)).all()
    assert (np.abs(np.diff(a, axis=0)) <= limits.jerk * dt * (1 + 1e-6) + 1e-9 * limits.acceleration).all()
    # continuous: what is between two samples is the integral
    assert (np.abs(np.diff(v, axis=0) - (a[1:] + a[:-1]) * (dt / 2)) <= limits.jerk * dt**2 + 1e-9).all()
    assert (np.abs(np.diff(p, axis=0) - (v[1:] + v[:-1]) * (dt / 2)) <= limits.jerk * dt**3 + 1e-9).all()
    low, high, speed = stop.extremes()
    rough = (np.abs(a).max(axis=0) * dt**2) + 1e-9  # by which samples miss an extreme, at most
    assert (p >= low - 1e-9).all() and (p <= high + 1e-9).all() and (np.abs(v) <= speed * (1 + 1e-9) + 1e-12).all()
    assert (p.min(axis=0) <= low + rough).all() and (p.max(axis=0) >= high - rough).all()
    assert (np.abs(v).max(axis=0) >= speed - limits.jerk * dt**2 - 1e-9).all()


@pytest.mark.skipif(ruckig is None, reason="ruckig is not installed")
def test_no_stop_is_quicker():
    rng, h = np.random.default_rng(0), 1e-4
    limits = Limits(*(np.full(1, x) for x in (-1e6, 1e6, 2.0, 4.0)), np.full(1, 40.0))
    for _ in range(30):
        state = np.stack([np.zeros(1), rng.uniform(-2, 2, 1), rng.uniform(-4, 4, 1)])
        positions, _ = halt(*state, limits, h)
        stop = Stop(state, limits)
        assert stop.duration == pytest.approx(len(positions) * h, abs=3 * h)
        np.testing.assert_allclose(stop.end, positions[-1], atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), far=st.floats(-9, 9))
def test_a_crossing_from_rest_to_rest_fits_in_its_patience(seed, far):
    """Whatever the distance; and not in much less."""
    rng = np.random.default_rng(seed)
    limits = limits_of(rng, 1)
    p, distance = rng.normal(), 10**far * rng.choice([-1, 1])
    begin, end = np.array([[p], [0.0], [0.0]]), np.array([[p + distance], [0.0], [0.0]])
    edges = np.sort([p, p + distance])[:, None]
    margin = 1e-12 * (abs(p) + abs(distance))
    limits = dataclasses.replace(limits, low=edges[0] - margin, high=edges[1] + margin)
    duration = patience(np.array([end[0, 0] - p]), limits)
    crossings = Crossings(begin, np.stack([end, end, end]), duration * np.array([1.0, 3.0, 0.9]))
    assert crossings.within(limits).tolist() == [True, True, False]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_a_crossing_is_taken_for_holds_everywhere(seed):
    rng = np.random.default_rng(seed)
    limits = Limits(*(np.full(3, x) for x in (-1.0, 1.0, 2.0, 4.0, 40.0)))
    begin = np.stack([rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), rng.uniform(-2, 2, 3)])
    ends = begin[None] + rng.normal(size=(6, 3, 3)) * np.array([0.1, 0.2, 1.0])[:, None]
    durations = rng.uniform(0.1, 2.0, 6)
    crossings = Crossings(begin, ends, durations)
    for k, taken in enumerate(crossings.within(limits)):
        way = crossings.way(k)
        times, states = along(way, 101)
        np.testing.assert_allclose(states[0], begin, atol=1e-12)
        np.testing.assert_allclose(states[-1], ends[k], atol=1e-9)
        jerk = np.abs(np.diff(states[:, 2], axis=0)).max() / times[1]
        most = np.append(np.abs(states).max(axis=(0, 2)), jerk) / [1, 2, 4, 40]
        if taken:
            assert (most <= 1 + 1e-9).all()
        else:  # the bounds are larger by a few percent
            assert (most > 0.9).any()


def test_many_crossings_are_taken():
    """The bounds do not refuse what plainly fits."""
    limits = Limits(*(np.full(1, x) for x in (-1.0, 1.0, 2.0, 4.0, 40.0)))
    begin = np.array([[0.0], [0.5], [0.0]])
    ends = np.array([[[0.5], [0.5], [0.0]], [[0.4], [0.5], [0.0]], [[-0.5], [0.5], [0.0]]])
    assert Crossings(begin, ends, np.ones(3)).within(limits).tolist() == [True, True, False]
