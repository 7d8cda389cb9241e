# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The final limiter: invisible on a legal trajectory, whatever its ticks; whatever else it is given, what it emits
keeps range, velocity, acceleration and jerk, and comes back to the trajectory. With ruckig, without, where it fails."""

import dataclasses
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pi_vla_ros.control import guard
from pi_vla_ros.control.bridge import Stop, patience
from pi_vla_ros.control.guard import NEAR, SLACK, Guard
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.planner import Planner
from pi_vla_ros.control.trajectory import motion
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk, Trajectory

ROBOT = load_robot("sim")
ROBOT = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, jerk=10 * j.acceleration) for j in ROBOT.joints))
PLANNER = Planner(ROBOT)
LIMITS = PLANNER.limits.kept(PLANNER.step)
AMPLITUDE = np.array([0.4, 0.3, 0.3, 0.3, 0.4, 0.3, 0.4, 0.01])
NOW, RATE = 1.76e9, 480
ROBOTS = {name: load_robot(name) for name in ("aloha", "ur5e", "droid")} | {"sim": ROBOT}
PLANNERS = {name: Planner(robot) for name, robot in ROBOTS.items()}
RUCKIG = guard.ruckig


class Broken:
    """A ruckig that never finds a way."""

    def __init__(self, joints):
        self.joints = joints

    def calculate(self, request, profile):
        if request.minimum_duration < 0.5:
            return RUCKIG.Result.ErrorSynchronizationCalculation
        raise RUCKIG.RuckigError


def use(means):
    if means == "without ruckig":
        guard.ruckig = None
    elif RUCKIG is None:
        pytest.skip("ruckig is not installed")
    elif means == "broken ruckig":
        guard.ruckig = types.SimpleNamespace(**{**vars(RUCKIG), "Ruckig": Broken})


@pytest.fixture(params=["ruckig", "without ruckig", "broken ruckig"])
def means(request):
    use(request.param)
    yield request.param
    guard.ruckig = RUCKIG


def play(limits, said, clock, ticks):
    """said(now, time) is the trajectory to play, clock(time) the wall clock. Returns what was emitted at `ticks`:
    positions, velocities, whether it was the trajectory's; and the guard."""
    the_guard, rows = Guard(limits), []
    for time in ticks:
        now = clock(time)
        trajectory, before = said(now, time), the_guard.bridged
        rows.append((*the_guard.command(trajectory, now, time), the_guard.bridged == before))
        if rows[-1][2]:
            np.testing.assert_array_equal(rows[-1][:2], motion(trajectory, now)[:2])
    return *(np.array(column) for column in zip(*rows, strict=True)), the_guard


def assert_limits(times, p, v, limits):
    """On what was emitted: velocities are those of a motion whose acceleration and jerk keep the limits, positions are
    their integral. Two ticks' mean accelerations differ by no more than the jerk makes between the ticks' middles.

    Tolerances: what the guard lets pass as rounding and as two clocks' difference, SLACK of each limit, NEAR of a
    position, SLACK² of the acceleration limit in s of a velocity.
    """
    dt, more = np.diff(times)[:, None], 1 + 3 * SLACK
    a = np.diff(v, axis=0) / dt
    loose = 2 * SLACK**2 * limits.acceleration
    assert np.isfinite(p).all() and np.isfinite(v).all()
    low, high = np.minimum(limits.low, p[0]), np.maximum(limits.high, p[0])
    assert (p >= low - 2 * NEAR).all() and (p <= high + 2 * NEAR).all()
    assert (np.abs(v) <= limits.velocity * more).all()
    assert (np.abs(a) <= limits.acceleration * more + loose / dt).all()
    jerk = limits.jerk * (dt[1:] + dt[:-1]) / 2
    assert (
        np.abs(np.diff(a, axis=0)) <= jerk * more + 3 * SLACK * limits.acceleration + loose / dt[1:] + loose / dt[:-1]
    ).all()
    bend = np.minimum(limits.jerk * dt**3 / 12, limits.acceleration * dt**2 / 4)
    off = np.abs(np.diff(p, axis=0) - (v[1:] + v[:-1]) * (dt / 2))
    assert (off <= bend * more + 2 * NEAR + SLACK * limits.velocity * dt).all()


class Policy:
    """Chunks of one kind, planned by the real planner; as a motion controller does, none while it brakes."""

    def __init__(self, name, kind, period, rng, until):
        self.planner, self.robot = PLANNERS[name], ROBOTS[name]
        self.kind, self.period, self.rng, self.until, self.due = kind, period, rng, until, 0.0
        self.plan = self.planner.hold(self.robot.home, NOW)

    def __call__(self, now, time):
        braking = self.plan.raw is None and now < self.plan.trajectory.end
        if time >= self.due and time < self.until and not braking:
            self.due = time + self.period
            if self.kind == "stop" and self.rng.random() < 0.3 and self.plan.raw is not None:
                new = self.planner.stop(self.plan, now)
            else:
                old = self.plan if self.plan.raw else self.planner.hold(self.plan.trajectory.positions[-1], now)
                new = self.planner.follow(old, self.chunk(now), now, 0.2)
            if now <= new.join * self.planner.step:
                self.plan = new
        return self.plan.trajectory

    def chunk(self, now):
        rng, limits, dt = self.rng, self.planner.limits, 1 / self.robot.timing.action_hz
        stamp, joints = now - 0.05, len(self.robot.joints)
        ahead = stamp - NOW + np.arange(30)[:, None] * dt
        actions = self.robot.home + np.resize(AMPLITUDE, joints) * np.sin(3 * ahead + np.arange(joints))
        if self.kind == "rough":
            actions = actions + rng.normal(size=actions.shape) * 10 ** rng.uniform(-2, 1)
        elif self.kind == "edges":
            side = np.where(rng.random(joints) < 0.5, limits.low, limits.high)
            actions = np.repeat(np.clip(side, -10, 10)[None], 30, axis=0)
        elif self.kind == "alternating":
            actions = self.robot.home + (-1.0) ** (np.arange(30)[:, None] // 5) * rng.uniform(0, 2, joints)
        return ActionChunk(actions, stamp, dt)


KINDS = ("calm", "rough", "edges", "alternating", "stop")


def ticks_of(rng, seconds, rate, late=0.02):
    gaps = np.where(rng.random(int(seconds * rate)) < late, rng.uniform(1, 20, int(seconds * rate)), 1.0) / rate
    times = np.cumsum(gaps)
    return times[times < seconds]


def legal_motion(name, kind, seed, rate):
    rng = np.random.default_rng(seed)
    policy = Policy(name, kind, rng.uniform(0.03, 0.2), rng, 1.2)
    the_guard = play(LIMITS_OF[name], policy, lambda time: NOW + time, ticks_of(rng, 2.0, rate))[-1]
    assert the_guard.bridged == 0


LIMITS_OF = {name: planner.limits.kept(planner.step) for name, planner in PLANNERS.items()}
motions = {
    "name": st.sampled_from(sorted(ROBOTS)), "kind": st.sampled_from(KINDS), "seed": st.integers(0, 2**32),
    "rate": st.floats(100, 1000),
}  # fmt: skip
ordinary = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
thorough = settings(ordinary, max_examples=200)


@ordinary
@given(**motions)
def test_a_legal_trajectory_passes_untouched(name, kind, seed, rate):
    legal_motion(name, kind, seed, rate)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@thorough
@given(**motions)
def test_many_legal_trajectories_pass_untouched(name, kind, seed, rate):
    legal_motion(name, kind, seed, rate)


def set_clock(name, kind, seed, rate, steps):
    """The wall clock is set at random moments; what is emitted keeps the limits and ends where the trajectory does."""
    rng = np.random.default_rng(seed)
    policy = Policy(name, kind, rng.uniform(0.06, 0.2), rng, 1.5)
    moments = np.sort(rng.uniform(0.3, 1.5, len(steps)))
    ticks = np.concatenate([ticks_of(rng, 1.6, rate), np.arange(1.61, 8.0, 0.01)])  # and as long as the way may take

    def clock(time):
        return NOW + time + sum(step for moment, step in zip(moments, steps, strict=True) if time >= moment)

    p, v, same, _ = play(LIMITS_OF[name], policy, clock, ticks)
    assert_limits(ticks, p, v, LIMITS_OF[name])
    assert same[-1] and (v[-1] == 0).all()
    np.testing.assert_array_equal(p[-1], policy.plan.trajectory.positions[-1])


steps = st.lists(st.floats(0.05, 2.0) | st.floats(-2.0, -0.05), min_size=1, max_size=3)


@ordinary
@given(**motions, steps=steps)
def test_a_clock_that_is_set_passes_no_limit(means, name, kind, seed, rate, steps):
    set_clock(name, kind, seed, rate, steps)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@thorough
@given(**motions, steps=steps)
def test_clocks_that_are_set_pass_no_limit(means, name, kind, seed, rate, steps):
    set_clock(name, kind, seed, rate, steps)


@pytest.mark.parametrize("step", [0.05, -0.4, 1.0])
def test_a_stream_is_caught_up_with(step, means):
    """New trajectories every 33 ms do not put the meeting off: it is there 1.2 s after the clock was set."""
    policy = Policy("sim", "calm", 0.033, np.random.default_rng(0), 9.0)
    ticks = np.arange(1, 2.8, 1 / RATE)
    p, v, same, the_guard = play(LIMITS, policy, lambda time: NOW + time + (step if time > 1.5 else 0.0), ticks)
    assert_limits(ticks, p, v, LIMITS)
    assert same[ticks < 1.5].all() and same[ticks > 2.7].all() and the_guard.bridged > 0


def hermite(positions, step=0.05, first=0):
    """A trajectory through `positions` (knots, joints), at rest at its end."""
    velocities = np.gradient(positions, step, axis=0) if len(positions) > 2 else np.zeros_like(positions)
    velocities[-1] = 0
    return Trajectory(first, step, positions, velocities)


NARROW = Limits(
    *(np.array(x) for x in ([-1.0, 0.0, -1e6], [1.0, 0.08, 1e6], [2.0, 0.2, 1.0], [4, 1, 3.0], [40, 240, 30.0]))
)


@pytest.mark.parametrize("kind", ["jumps", "far jumps", "noise", "reversed", "runs into the edge", "constant"])
def test_no_trajectory_makes_it_pass_a_limit(kind, means):
    """A new one every 100 ms, played from anywhere. When they are over, the arm goes to where the last one rests, or
    as near as its range is."""
    rng, ticks = np.random.default_rng(3), np.arange(0, 9.0, 1 / 240)
    current = [hermite(np.repeat([[0.2, 0.01, 0.0]], 2, axis=0)), 0.1]
    run = np.array([0.2, 0.04, 0.2]) + np.arange(40)[:, None] * 0.05 * NARROW.velocity * [1, 0, 1]

    def said(now, time):
        if time >= current[1] and time < 2.5:
            current[1] = time + 0.1
            first = int((time - rng.uniform(0, 0.2)) / 0.05)
            current[0] = {
                "jumps": lambda: hermite(rng.uniform(-1, 1, (20, 3)) * [1, 0.04, 1] + [0, 0.04, 0], first=first),
                "far jumps": lambda: hermite(rng.choice([-1e9, 0.0, 1e9], (20, 3)), first=first),
                "noise": lambda: hermite([0.2, 0.04, 0.2] + 1e-3 * rng.normal(size=(20, 3)), first=first),
                "reversed": lambda: hermite((run if rng.random() < 0.5 else run[::-1])[:20], first=first),
                "runs into the edge": lambda: hermite(np.minimum(run, [5, 0.05, 5]), first=0),
                "constant": lambda: hermite(
                    np.repeat(rng.uniform(-1, 1, (1, 3)) * [1, 0.08, 1], 2, axis=0), first=first
                ),
            }[kind]()
        if time >= 2.5:
            goal = np.clip(current[0].positions[-1], [-2, -1, -0.5], [0.5, 0.2, 0.5])
            current[0] = hermite(np.repeat(goal[None], 2, axis=0))
        return current[0]

    p, v, _, _ = play(NARROW, said, lambda time: time, ticks)
    assert_limits(ticks, p, v, NARROW)
    goal = np.clip(current[0].positions[-1], NARROW.low, NARROW.high)
    reached = np.abs(goal) < 10  # further than 9 s
    np.testing.assert_allclose(p[-1][reached], goal[reached], atol=2 * NEAR)


def test_a_trajectory_said_again_does_not_put_the_meeting_off(means):
    """As a new one at every tick, from a motion under way: it is met when it rests, or a stop and a move later."""
    policy = Policy("sim", "calm", 0.1, np.random.default_rng(0), 1.0)
    for time in np.arange(0, 1.0, 0.1):
        policy(NOW + time, time)
    moving, rng, dt = policy.plan.trajectory, np.random.default_rng(1), 1 / RATE
    for far in (0.01, 0.3, 1.0):
        goal = ROBOT.home + far * AMPLITUDE * rng.choice([-1, 1], 8)
        there = PLANNER.hold(goal, NOW).trajectory
        the_guard, now = Guard(LIMITS), NOW + 0.95
        for k in range(10):
            the_guard.command(moving, now + k * dt, k * dt)
        stop = Stop(motion(moving, now + 9 * dt), LIMITS)
        latest = stop.duration + patience(goal - stop.end, LIMITS)
        for k in range(10, 10 + int(latest * RATE) + 3):
            p, v = the_guard.command(dataclasses.replace(there), now + k * dt, k * dt)
        np.testing.assert_array_equal(p, goal)
        assert (v == 0).all() and the_guard.bridged < latest * RATE + 3


@pytest.mark.parametrize("unlimited", ["velocity", "acceleration", "jerk", "range", "all"])
def test_what_has_no_limit(unlimited, means):
    without = {
        "velocity": ["velocity"],
        "acceleration": ["acceleration", "jerk"],
        "jerk": ["jerk"],
        "range": ["low", "high"],
    }
    names = [n for some in without.values() for n in some] if unlimited == "all" else without[unlimited]
    limits = dataclasses.replace(NARROW, **{n: np.full(3, -np.inf if n == "low" else np.inf) for n in names})
    near, far = (hermite(np.repeat([[x, 0.01, x]], 2, axis=0)) for x in (0.0, 0.5))
    ticks = np.arange(0, 2.5, 1 / 240)
    with np.errstate(all="raise", under="ignore"):
        p, v, same, _ = play(limits, lambda now, time: far if time > 0.1 else near, lambda time: time, ticks)
    assert np.isfinite(p).all() and np.isfinite(v).all() and same[-1]
    np.testing.assert_array_equal(p[-1], far.positions[-1])


def test_an_arm_that_is_found_out_of_range_comes_back_and_goes_no_further(means):
    out = np.array([1.3, 0.1, 0.0])
    further, back = (hermite(np.repeat((out + np.array([x, x, 0]))[None], 2, axis=0)) for x in (0.2, -0.5))
    back.positions[:, 1] = 0.05
    ticks = np.arange(0, 4.0, 1 / 240)
    outside = hermite(np.repeat(out[None], 2, axis=0))
    p, v, _, _ = play(
        NARROW, lambda now, time: outside if time < 0.1 else further if time < 1 else back, lambda time: time, ticks
    )
    assert_limits(ticks, p, v, NARROW)
    assert (p[:, :2] <= out[:2] + 2 * NEAR).all()
    np.testing.assert_array_equal(p[-1], back.positions[-1])


def test_a_speed_at_its_limit_to_the_last_digit_is_bridged(means):
    """And a little beyond, as rounding leaves it."""
    for beyond in (0.0, 1e-15, SLACK / 2):
        knots = np.arange(20)[:, None] * 0.05 * NARROW.velocity * (1 + beyond) * [1, 0, 1]
        fast = Trajectory(0, 0.05, knots, np.repeat(NARROW.velocity[None] * (1 + beyond) * [1, 0, 1], 20, axis=0))
        still = hermite(np.repeat([[0.0, 0.01, 0.0]], 2, axis=0))
        ticks = np.arange(0.001, 3.0, 1 / 240)
        p, v, same, _ = play(
            NARROW, lambda now, t, fast=fast, still=still: fast if t < 0.2 else still, lambda t: t, ticks
        )
        wide = dataclasses.replace(NARROW, high=NARROW.high + 2)  # it began so fast that it could not stop before
        assert_limits(ticks, p, v, wide)
        np.testing.assert_array_equal(p[-1], still.positions[-1])
        assert same[-1]


def test_a_ruckig_that_fails_is_one_that_is_not_there():
    if RUCKIG is None:
        pytest.skip("ruckig is not installed")
    emitted = []
    try:
        for name in ("without ruckig", "broken ruckig"):
            use(name)
            policy = Policy("sim", "rough", 0.1, np.random.default_rng(0), 9.0)
            clock = lambda time: NOW + time + (0.3 if time > 0.5 else 0.0)  # noqa: E731
            emitted.append(play(LIMITS, policy, clock, np.arange(0, 1.5, 1 / RATE))[0])
    finally:
        guard.ruckig = RUCKIG
    np.testing.assert_array_equal(*emitted)


def test_reset_begins_anew():
    the_guard = Guard(LIMITS)
    near, far = (PLANNER.hold(ROBOT.home + offset, NOW).trajectory for offset in (0.0, 0.01))
    np.testing.assert_array_equal(the_guard.command(near, NOW, 1.0)[0], ROBOT.home)
    moved = the_guard.command(far, NOW, 1.002)[0] - ROBOT.home
    assert moved.min() >= 0 and moved.max() < 1e-3
    the_guard.reset()
    np.testing.assert_array_equal(the_guard.command(far, NOW, 1.004)[0], ROBOT.home + 0.01)
