# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Chunks become trajectories that are continuous, limited, on time, and that end at rest in time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.control import halt
from pi_vla_ros.control.planner import ChunkRejected, Planner
from pi_vla_ros.control.trajectory import jerks, peaks, sample
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

ROBOT = load_robot("sim")
FREE = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, jerk=None) for j in ROBOT.joints))
JERKY = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, jerk=8 * j.acceleration) for j in ROBOT.joints))
AMPLITUDE = np.array([0.4, 0.3, 0.3, 0.3, 0.4, 0.3, 0.4, 0.02])
NOW = 1.76e9  # a ROS time of today: rounding of large times is part of the test


def wave(times):
    """A smooth demonstration (n, joints)."""
    return ROBOT.home + AMPLITUDE * np.sin(np.pi * times[:, None])


def chunk(stamp, actions=None, dt=1 / 30):
    actions = wave(stamp - NOW + dt * np.arange(50)) if actions is None else actions
    return ActionChunk(actions, stamp, dt)


def assert_legal(trajectory, limits, slack=1e-6):
    low, high, speed, acceleration = peaks(trajectory)
    assert (low >= limits.low - slack).all() and (high <= limits.high + slack).all()
    assert (speed <= limits.velocity * (1 + 1e-6)).all()
    assert (acceleration <= limits.acceleration * (1 + 1e-4)).all()
    jerk = np.minimum(limits.jerk, 2 * limits.acceleration / (limits.window(trajectory.step) * trajectory.step))
    assert (jerks(trajectory) <= jerk * (1 + 1e-4)).all()
    assert (trajectory.velocities[-1] == 0).all()


def drive(planner, chunks, start=NOW, period=1 / 30):
    """Plan one chunk per period; yields (now, trajectory before, plan)."""
    current, now = planner.hold(ROBOT.home, start), start
    for make in chunks:
        now += period
        plan = planner.follow(current, make(now), now, ROBOT.motion.blend)
        yield now, current.trajectory, plan
        current = plan


@pytest.mark.parametrize("stitcher", ["blend", "temporal_ensemble", "hold_and_replace"])
@pytest.mark.parametrize("robot", [FREE, JERKY], ids=["no jerk limit", "jerk limit"])
def test_joins_are_continuous_and_limits_hold(robot, stitcher):
    motion = dataclasses.replace(robot.motion, stitcher=stitcher)
    planner, rng = Planner(dataclasses.replace(robot, motion=motion)), np.random.default_rng(0)
    makers = [lambda now, k=k: chunk(now - 0.05, wave(now - NOW + np.arange(50) / 30) + rng.normal(size=8) * k)
              for k in [0.0, 0.05, 0.3, 1.0] * 15]  # fmt: skip
    for now, before, plan in drive(planner, makers):
        assert_legal(plan.trajectory, planner.limits)
        for t in np.linspace(now - 0.05, plan.join * planner.step, 9):  # the same motion until the join
            for old, new in zip(sample(before, t), sample(plan.trajectory, t), strict=True):
                np.testing.assert_allclose(new, old, atol=1e-9)


@pytest.mark.parametrize("installed", [True, False], ids=["ruckig", "without ruckig"])
@pytest.mark.parametrize("robot", [FREE, JERKY], ids=["no jerk limit", "jerk limit"])
def test_a_stop_at_any_moment_keeps_all_limits(robot, installed, monkeypatch):
    """In the midst of a rough policy's motion; with ruckig never later than by our own means."""
    ends = {}
    for own in (False, True) if installed else (True,):
        if own:
            monkeypatch.setattr(halt, "ruckig", None)
        planner, rng = Planner(robot), np.random.default_rng(1)
        rough = [lambda now: chunk(now - 0.05, ROBOT.home + 0.3 * rng.normal(size=(50, 8)))] * 60  # noqa: B023
        for k, (now, _, plan) in enumerate(drive(planner, rough)):
            stop = planner.stop(plan, now)
            assert_legal(stop.trajectory, planner.limits)
            p, v = sample(plan.trajectory, stop.join * planner.step)
            q, w = sample(stop.trajectory, stop.join * planner.step)
            assert np.abs(p - q).max() < 1e-9 and np.abs(v - w).max() < 1e-9
            assert stop.raw is None  # nothing takes over from it
            ends.setdefault(k, []).append(stop.trajectory.end)
    if installed:
        quick, slow = np.array(list(ends.values())).T
        assert (quick <= slow + 2.5 / 120).all()  # the one lands on a step at once
        if robot is JERKY:
            assert (slow - quick).mean() > 0.1  # s


@pytest.mark.parametrize("error", ["RuckigError", "ValueError"])
def test_a_ruckig_that_raises_is_one_that_is_not_there(error, monkeypatch):
    """It does, where it is asked for what is beyond its limits."""
    ruckig = pytest.importorskip("ruckig")
    planner = Planner(JERKY)
    *_, (now, _, plan) = drive(planner, [lambda now: chunk(now - 0.05)] * 20)

    class Raises:
        def __init__(self, joints):
            pass

        def calculate(self, request, profile):
            raise ruckig.RuckigError("no") if error == "RuckigError" else ValueError("-101 is not a valid Result")

    with monkeypatch.context() as patched:
        patched.setattr(ruckig, "Ruckig", Raises)
        stop = planner.stop(plan, now)
    monkeypatch.setattr(halt, "ruckig", None)
    np.testing.assert_array_equal(stop.trajectory.positions, planner.stop(plan, now).trajectory.positions)


def test_a_smooth_policy_is_tracked_in_its_own_time():
    """After the ramp the commanded position is what the policy said for that very time, not earlier, not later."""
    planner = Planner(ROBOT)
    for k, (now, _, plan) in enumerate(drive(planner, [lambda now: chunk(now - 0.06)] * 80)):
        if k > 45:
            at = plan.join * planner.step + 0.1
            said = wave(np.array([at - NOW]))[0]
            off = np.abs(sample(plan.trajectory, at)[0] - said)
            mean = AMPLITUDE * np.pi**2 * (planner.window * planner.step) ** 2 / 24  # what a running mean cuts off
            assert (off < 1.1 * mean + 1e-4).all()
            assert now < at


def test_every_trajectory_ends_at_rest_before_the_timeout():
    planner = Planner(ROBOT)
    for now, _, plan in drive(planner, [lambda now: chunk(now - 0.05)] * 10):
        assert plan.trajectory.end <= now - 0.05 + ROBOT.timing.timeout + 1e-6
        assert plan.tail * planner.step < plan.trajectory.end + planner.step


def test_stop_brakes_within_the_limits():
    planner = Planner(ROBOT)
    *_, (now, _, plan) = drive(planner, [lambda now: chunk(now - 0.05)] * 40)
    stop = planner.stop(plan, now)
    assert_legal(stop.trajectory, planner.limits)
    slowest = np.max(planner.limits.velocity / planner.limits.acceleration)
    assert stop.trajectory.end <= now + ROBOT.motion.margin + slowest + (planner.window + 2) * planner.step


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: chunk(NOW, np.full((50, 8), np.nan)), "chunk_not_finite"),
        (lambda: chunk(NOW, np.where(np.arange(400).reshape(50, 8) == 399, np.inf, 0.0)), "chunk_not_finite"),
        (lambda: chunk(float("nan"), np.zeros((50, 8))), "chunk_not_finite"),
        (lambda: chunk(NOW, np.zeros((50, 7))), "chunk_shape"),
        (lambda: chunk(NOW, np.zeros((0, 8))), "chunk_shape"),
        (lambda: chunk(NOW, np.zeros(8)), "chunk_shape"),
        (lambda: chunk(NOW - 2.0), "chunk_too_old"),
        (lambda: chunk(NOW + 1.0), "chunk_from_future"),
    ],
)
def test_bad_chunks_are_refused_by_name(bad, reason):
    planner = Planner(ROBOT)
    with pytest.raises(ChunkRejected) as error:
        planner.follow(planner.hold(ROBOT.home, NOW), bad(), NOW, 0.2)
    assert error.value.reason == reason


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.01, 0.3, 3.0, 1e3, 1e9]),
            st.integers(0, 2**31),
            st.integers(1, 50),
            st.floats(0.0, 0.3),
            st.floats(0.005, 0.4),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_limits_hold_for_any_chunks_at_any_time(steps):
    """Random walks, jumps to 1e9, one-action chunks, late ones, irregular periods."""
    planner, now = Planner(ROBOT), NOW
    current = planner.hold(ROBOT.home, now)
    for size, seed, horizon, age, period in steps:
        now += period
        actions = ROBOT.home + size * np.random.default_rng(seed).normal(size=(horizon, 8)).cumsum(axis=0)
        if age > horizon / 30:
            with pytest.raises(ChunkRejected, match="it is over"):
                planner.follow(current, chunk(now - age, actions), now, 0.2)
            continue
        plan = planner.follow(current, chunk(now - age, actions), now, 0.2)
        assert_legal(plan.trajectory, planner.limits)
        p, v = sample(current.trajectory, plan.join * planner.step)
        q, w = sample(plan.trajectory, plan.join * planner.step)
        assert np.abs(p - q).max() < 1e-9 and np.abs(v - w).max() < 1e-6
        current = plan


def test_velocity_actions_never_step_and_stop_at_the_range():
    robot = load_robot("droid")
    planner = Planner(robot)
    current, now = planner.hold(robot.home, NOW), NOW
    for _ in range(60):
        now += 1 / 15
        actions = np.zeros((15, 8))
        actions[:, 0] = 3.0  # full speed, for ever
        plan = planner.follow(current, ActionChunk(actions, now - 0.05, 1 / 15), now, robot.motion.blend)
        assert_legal(plan.trajectory, planner.limits)
        current = plan
    assert current.trajectory.positions[-1, 0] == pytest.approx(robot.joints[0].position[1], abs=1e-6)


def test_a_chunk_without_motion_holds_still():
    planner = Planner(ROBOT)
    still = chunk(NOW, np.tile(ROBOT.home, (50, 1)))
    plan = planner.follow(planner.hold(ROBOT.home, NOW), still, NOW, 0.2)
    assert np.abs(plan.trajectory.positions - ROBOT.home).max() < 1e-12
    assert not plan.cut.any()


@pytest.mark.parametrize("gap", [0.05, 0.3, 1.0])
def test_a_jump_of_the_policys_mind_is_closed_smoothly(gap):
    """No clip, no overshoot, and within a second and a half."""
    planner, reached = Planner(ROBOT), []
    actions = np.tile(ROBOT.home + gap * np.array([1, 1, 1, 0.5, 1, 1, 1, 0.02]), (50, 1))
    for now, before, plan in drive(planner, [lambda now: chunk(now - 0.06, actions)] * 90):
        reached.append(sample(before, now)[0][0])
        assert not plan.cut[:, :4].any()
    assert max(reached) <= gap + 1e-4
    assert reached[45] > 0.93 * gap and reached[-1] == pytest.approx(gap, abs=1e-4)


def test_a_rough_policy_cannot_wind_the_motion_up():
    """Chunks with steep, always equal slopes: the arm stays among the positions that were asked for."""
    planner, noise = Planner(ROBOT), np.random.default_rng(0).normal(size=(50, 8))
    amplitude = np.array([0.2, 0.2, 0.2, 0.1, 0.2, 0.2, 0.2, 0.005])
    for rough in (noise, 3 * noise):
        actions = ROBOT.home + 0.3 * amplitude * rough
        overshoot = planner.limits.velocity**2 / (2 * planner.limits.acceleration)  # of a limiter that arrives at speed
        furthest = 0.3 * amplitude * np.abs(rough).max(axis=0) * 1.5 + overshoot  # a spline swings beyond its points
        for _, _, plan in drive(planner, [lambda now, a=actions: chunk(now - 0.06, a)] * 60):
            reached = np.abs(plan.trajectory.positions - ROBOT.home).max(axis=0)
            assert (reached <= furthest).all()


def test_replace_takes_the_chunk_at_once_under_the_limits():
    motion = dataclasses.replace(ROBOT.motion, stitcher="hold_and_replace")
    planner, blending = Planner(dataclasses.replace(ROBOT, motion=motion)), Planner(ROBOT)
    away = chunk(NOW, np.tile(ROBOT.home + 0.01, (50, 1)))
    at_once, faded = (p.follow(p.hold(ROBOT.home, NOW), away, NOW, 0.5).trajectory for p in (planner, blending))
    assert_legal(at_once, planner.limits)
    near = [np.argmax(t.positions[:, 0] > 0.009) for t in (at_once, faded)]
    assert near[0] < near[1] - 20  # ticks


def test_a_chunk_of_hours_costs_no_memory():
    planner = Planner(ROBOT)
    plan = planner.follow(planner.hold(ROBOT.home, NOW), chunk(NOW, dt=3600.0), NOW, 0.2)
    assert_legal(plan.trajectory, planner.limits)
    assert len(plan.wanted.positions) < 11 / planner.step and plan.trajectory.end <= NOW + ROBOT.timing.timeout + 1e-6


def test_plan_rate_is_the_robots(sim_robot):
    faster = dataclasses.replace(sim_robot, motion=dataclasses.replace(sim_robot.motion, plan_hz=200.0))
    assert Planner(faster).step == 1 / 200
