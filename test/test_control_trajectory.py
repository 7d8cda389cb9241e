# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Trajectories against scipy's Hermite spline, references against the chunk, hand-overs against their definition."""

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.reference import Reference
from pi_vla_ros.control.stitch import SHARE, hand_over, windows
from pi_vla_ros.control.trajectory import accelerations, peaks, sample
from pi_vla_ros.robot import Action, Joint
from pi_vla_ros.types import ActionChunk, Trajectory

STEP = 1 / 120


def joint(**changes):
    return Joint(**({"name": "j", "position": (-9.0, 9.0), "velocity": 9.0, "acceleration": 9.0} | changes))


JOINTS = [joint(), joint(), joint()]


def random_trajectory(seed=0, first=1000, knots=12):
    rng = np.random.default_rng(seed)
    velocities = rng.normal(size=(knots, 3))
    velocities[-1] = 0
    return Trajectory(first, STEP, rng.normal(size=(knots, 3)) * 0.01, velocities)


def test_sample_is_the_cubic_hermite_spline():
    trajectory = random_trajectory()
    times = (trajectory.first + np.arange(12)) * STEP
    spline = CubicHermiteSpline(times, trajectory.positions, trajectory.velocities)
    for t in np.linspace(times[0], times[-1], 97)[1:-1]:
        p, v = sample(trajectory, t)
        np.testing.assert_allclose(p, spline(t), atol=1e-10)
        np.testing.assert_allclose(v, spline(t, 1), atol=1e-7)


def test_it_rests_before_and_after():
    trajectory = random_trajectory()
    for t, row in ((trajectory.start - 1, 0), (trajectory.end, -1), (trajectory.end + 9, -1)):
        p, v = sample(trajectory, t)
        np.testing.assert_array_equal(p, trajectory.positions[row])
        assert (v == 0).all()


def test_peaks_against_dense_samples():
    trajectory = random_trajectory(3)
    low, high, speed, acceleration = peaks(trajectory)
    dense = [sample(trajectory, t) for t in np.linspace(trajectory.start, trajectory.end, 20001)]
    p, v = (np.array([d[i] for d in dense]) for i in (0, 1))
    np.testing.assert_allclose(low, p.min(axis=0), atol=1e-6)
    np.testing.assert_allclose(high, p.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(speed, np.abs(v[1:-1]).max(axis=0), rtol=1e-3)
    begin, end = accelerations(trajectory)
    np.testing.assert_allclose(acceleration, np.maximum(np.abs(begin), np.abs(end)).max(axis=0))


def test_a_constant_acceleration_step_is_exact():
    """p, v of a parabola: the Hermite segment has that acceleration at both ends."""
    v = np.array([[0.0], [4.0 * STEP]])
    p = np.array([[0.0], [2.0 * STEP**2]])
    begin, end = accelerations(Trajectory(0, STEP, p, v))
    assert begin[0, 0] == pytest.approx(4.0) and end[0, 0] == pytest.approx(4.0)


def test_reference_passes_through_the_actions_at_their_times():
    rng = np.random.default_rng(0)
    chunk = ActionChunk(rng.normal(size=(20, 2)), stamp=100.0, dt=0.05)
    reference = Reference(chunk, JOINTS[:2])
    position, _ = reference.at(100.0 + 0.05 * np.arange(20))
    np.testing.assert_allclose(position, chunk.actions, atol=1e-9)


def test_reference_rests_outside_of_the_chunk():
    chunk = ActionChunk(np.linspace(0, 1, 10)[:, None], stamp=0.0, dt=0.1)
    position, rate = Reference(chunk, JOINTS[:1]).at(np.array([-1.0, 0.45, 5.0]))
    np.testing.assert_allclose(position[:, 0], [0.0, 0.5, 1.0], atol=1e-12)
    np.testing.assert_allclose(rate[:, 0], [0.0, 1 / 0.9, 0.0], atol=1e-12)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_short_chunks(horizon):
    chunk = ActionChunk(np.full((horizon, 1), 0.3), stamp=0.0, dt=0.1)
    position, rate = Reference(chunk, JOINTS[:1]).at(np.linspace(-0.1, 0.5, 7))
    assert np.allclose(position, 0.3) and np.allclose(rate, 0)


def test_velocity_joints_are_integrated_from_their_anchor():
    """v(t) = 2 t integrates to t²; position joints are not touched."""
    t = 0.1 * np.arange(11)
    chunk = ActionChunk(np.stack([2 * t, t], axis=1), stamp=10.0, dt=0.1)
    reference = Reference(chunk, [joint(action=Action("velocity")), JOINTS[0]])
    reference.anchor(10.5, np.array([7.0, -99.0]))
    position, rate = reference.at(np.array([10.5, 10.8]))
    np.testing.assert_allclose(position, [[7.0, 0.5], [7.0 + 0.8**2 - 0.5**2, 0.8]], atol=1e-9)
    np.testing.assert_allclose(rate, [[1.0, 1.0], [1.6, 1.0]], atol=1e-9)


def test_lead_shifts_the_commands_ahead_of_the_policys_time():
    chunk = ActionChunk(np.linspace(0, 1, 11)[:, None], stamp=0.0, dt=0.1)
    position, _ = Reference(chunk, JOINTS[:1], lead=0.15).at(np.array([0.2]))
    assert position[0, 0] == pytest.approx(0.35)


def test_a_quintic_is_exact_for_a_polynomial_of_degree_five():
    t, fine = 0.1 * np.arange(9), np.linspace(0, 0.8, 33)
    chunk = ActionChunk((t**5 - t**3)[:, None] * np.ones(2), stamp=0.0, dt=0.1)
    position, rate = Reference(chunk, [joint(interpolation="quintic"), joint()]).at(fine)
    np.testing.assert_allclose(position[:, 0], fine**5 - fine**3, atol=1e-12)
    np.testing.assert_allclose(rate[:, 0], 5 * fine**4 - 3 * fine**2, atol=1e-11)
    assert np.abs(position[:, 1] - position[:, 0]).max() > 1e-5  # a cubic is not


@pytest.mark.parametrize("horizon", [1, 2, 3, 4, 5, 6])
def test_a_short_chunk_has_a_lower_degree(horizon):
    actions = np.linspace(0, 1, horizon)[:, None]
    at = 0.1 * np.arange(horizon)
    position, _ = Reference(ActionChunk(actions, 0.0, 0.1), [joint(interpolation="quintic")]).at(at)
    np.testing.assert_allclose(position, actions, atol=1e-12)


@pytest.mark.parametrize("kind", ["monotone", "linear", "hold"])
def test_grippers_do_not_overshoot(kind):
    """0, 0, 1, 1: a cubic spline swings below 0 and above 1; these do not, and they pass through the actions."""
    actions = np.array([0, 0, 0, 1, 1, 1, 0.2, 0.2])[:, None] * np.ones(2)
    chunk = ActionChunk(actions, stamp=0.0, dt=0.1)
    t = np.linspace(0, 0.7, 701)
    position, rate = Reference(chunk, [joint(), joint(interpolation=kind)]).at(t)
    assert position[:, 0].max() > 1.02 and position[:, 0].min() < -0.02
    assert position[:, 1].max() <= 1.0 and position[:, 1].min() >= 0.0
    np.testing.assert_allclose(position[np.arange(0, 701, 100), 1][:-1], actions[:-1, 1], atol=1e-9)
    if kind == "linear":
        assert rate[250, 1] == pytest.approx(10.0)
    if kind == "hold":
        assert set(np.unique(position[:, 1])) == {0.0, 0.2, 1.0} and not rate[:, 1].any()


def test_continuous_joints_take_the_shorter_way():
    """The policy says 3.1, then -3.1: 0.08 rad further, not 6.2 back; and the arm may be turns away."""
    chunk = ActionChunk(np.array([3.0, 3.05, 3.1, -3.133, -3.083])[:, None], stamp=0.0, dt=0.1)
    reference = Reference(chunk, [joint(continuous=True)])
    reference.anchor(0.0, np.array([3.0 + 4 * np.pi]))
    position, _ = reference.at(np.array([0.0, 0.3, 0.4]))
    np.testing.assert_allclose(position[:, 0] - 4 * np.pi, [3.0, 2 * np.pi - 3.133, 2 * np.pi - 3.083], atol=1e-9)


def test_hand_over_is_c2_and_lies_between():
    t, window = np.linspace(0, 0.5, 50001), np.array([0.3])
    h = t[1]
    old = np.sin(3 * t)[:, None], 3 * np.cos(3 * t)[:, None]
    new = 0.5 + np.cos(5 * t)[:, None], -5 * np.sin(5 * t)[:, None]
    position, rate = hand_over(old, new, t, window)
    np.testing.assert_allclose(np.gradient(position[:, 0], h)[1:-1], rate[1:-1, 0], atol=1e-3)
    curvature = np.gradient(rate[:, 0], h)
    assert curvature[1] == pytest.approx(0.0, abs=0.1)  # old's at the join: -9 sin 0
    after = t >= window
    np.testing.assert_allclose(position[after], new[0][after], atol=1e-12)
    np.testing.assert_allclose(rate[after], new[1][after], atol=1e-9)
    end = np.argmax(after)
    assert curvature[end - 3] == pytest.approx(curvature[end + 3], rel=1e-2)
    low, high = np.minimum(old[0], new[0]), np.maximum(old[0], new[0])
    assert (position >= low - 1e-12).all() and (position <= high + 1e-12).all()


def test_windows_keep_the_hand_over_within_its_share_of_the_limits():
    limits = Limits(np.array([-9.0]), np.array([9.0]), np.array([2.0]), np.array([8.0]))
    t = np.linspace(0, 5, 50001)
    rest = np.zeros((len(t), 1))
    for gap in (0.001, 0.05, 0.5, 2.0):
        window = windows(np.array([-gap]), limits, 0.1)
        assert window >= 0.1
        _, rate = hand_over((rest, rest), (rest + gap, rest), t, window)
        assert np.abs(rate).max() <= SHARE * 2.0 + 1e-6
        assert np.abs(np.diff(rate[:, 0]) / t[1]).max() <= SHARE * 8.0 * (1 + 1e-3)
