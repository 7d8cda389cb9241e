# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whatever a policy says and whenever it says it: no limit is passed, no command steps, a chunk that cannot be executed
is refused by name, and the motion under way goes on to its safe end."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pi_vla_ros.control.motion import MotionController, State
from pi_vla_ros.control.trajectory import jerks, peaks, sample
from pi_vla_ros.motion_bench.judge import Judge
from pi_vla_ros.motion_bench.methods import along
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

STITCHERS = ("hold_and_replace", "blend", "temporal_ensemble", "rtc", "rtc_trained")
ROBOTS = ("sim", "aloha", "ur5e", "droid")
COUNT, HZ = 30, 480.0

# What may be wrong with a chunk, and the reasons for which it may then be refused.
BROKEN = {
    "nan": {"chunk_not_finite"},
    "inf": {"chunk_not_finite"},
    "too_few_joints": {"chunk_shape"},
    "one_row": {"chunk_shape"},
    "empty": {"chunk_shape"},
    "no_dt": {"chunk_shape"},
    "negative_dt": {"chunk_shape"},
    "nan_stamp": {"chunk_not_finite"},
    "infinite_stamp": {"chunk_not_finite"},
    "duplicated": {"chunk_not_newer"},
    "reversed": {"chunk_not_newer"},
    "from_the_past": {"chunk_too_old", "chunk_not_newer"},
    "long_ago": {"chunk_too_old", "chunk_not_newer"},
    "from_the_future": {"chunk_from_future"},
    "far_future": {"chunk_from_future"},
}
# What a policy may well want: all of this is executed, as far as the limits allow.
WANTED = ("calm", "wild", "jump", "constant", "alternating", "one_action", "edge_of_range")


@functools.cache
def robot_of(name, stitcher):
    robot = load_robot(name)
    return dataclasses.replace(robot, motion=dataclasses.replace(robot.motion, stitcher=stitcher))


class Rig:
    """A motion controller and a clock; every command that an arm would have had is judged."""

    def __init__(self, robot):
        self.robot, self.now, self.tick = robot, 100.0, 48000
        self.motion = MotionController(robot, self.check)
        self.limits = self.motion.planner.limits
        self.judge = Judge(self.limits, HZ, 0.05, settle=0.0)
        self.stamp, self.fresh = self.now, True  # of the last chunk executed
        self.motion.start(robot.home, self.now)
        self.wait(0.05)

    def check(self, plan):
        """Exactly, everywhere on the curve, whether it will be executed or not."""
        curve, limits, more = plan.trajectory, self.limits, 1 + 1e-5
        assert np.isfinite(curve.positions).all() and np.isfinite(curve.velocities).all()
        low, high, speed, acceleration = peaks(curve)
        assert (low >= limits.low - 1e-6).all() and (high <= limits.high + 1e-6).all()
        assert (speed <= limits.velocity * more).all()
        assert (acceleration <= limits.acceleration * more).all()
        assert (jerks(curve) <= limits.jerk * more).all()
        assert (curve.velocities[-1] == 0).all()
        assert curve.end <= self.now + self.robot.timing.timeout + self.motion.planner.step
        return True

    def wait(self, seconds):
        self.now += seconds
        until = int(self.now * HZ)
        if until > self.tick:
            times = np.arange(self.tick, until) / HZ
            commands = along(self.motion.trajectory, times)
            self.judge.add(times, commands, commands)
            self.tick = until

    def say(self, kind, seed):
        """The policy says something; None or why it was refused."""
        chunk = self.make(kind, np.random.default_rng(seed))
        under_way = self.motion.trajectory
        refused = self.motion.chunk(chunk, lambda: self.now)
        if refused is None:
            self.stamp, self.fresh = chunk.stamp, False
            assert self.motion.trajectory is not under_way
        else:
            assert self.motion.trajectory is under_way
        return refused

    def make(self, kind, rng):
        joints, dt = len(self.robot.joints), 1 / self.robot.timing.action_hz
        stamp = max(self.now - rng.uniform(0.0, 0.1), np.nextafter(self.stamp, np.inf))
        calm = self.robot.home + 0.1 * np.sin(np.arange(COUNT)[:, None] * dt * 3 + rng.uniform(0, 6, joints))
        actions = calm + 0.05 * rng.standard_normal(joints)
        if kind == "wild":
            actions = actions + rng.standard_normal((COUNT, joints)) * 10 ** rng.uniform(-3, 1)
        elif kind == "jump":
            actions[rng.integers(COUNT // 5) :] += rng.choice([-1e9, 1e9], joints)
        elif kind == "constant":
            actions = np.repeat(rng.uniform(-4, 4, (1, joints)), COUNT, axis=0)
        elif kind == "alternating":
            actions = self.robot.home + (-1.0) ** np.arange(COUNT)[:, None] * rng.uniform(0, 2, joints)
        elif kind == "one_action":
            actions = actions[:1]
        elif kind == "edge_of_range":
            edge = np.where(rng.random(joints) < 0.5, self.limits.low, self.limits.high)
            actions = np.repeat(np.clip(edge, -10, 10)[None], COUNT, axis=0)
        elif kind in ("nan", "inf"):
            actions[rng.integers(COUNT), rng.integers(joints)] = {"nan": np.nan, "inf": -np.inf}[kind]
        elif kind == "too_few_joints":
            actions = actions[:, 1:]
        elif kind == "one_row":
            actions = actions[0]
        elif kind == "empty":
            actions = actions[:0]
        elif kind in ("no_dt", "negative_dt"):
            dt = {"no_dt": 0.0, "negative_dt": -dt}[kind]
        elif kind == "duplicated":
            stamp = self.stamp
        elif kind == "reversed":
            stamp = self.stamp - rng.uniform(0.001, 0.2)
        else:
            away = {"from_the_past": -5.0, "long_ago": -1e12, "from_the_future": 0.5, "far_future": 1e12}
            stamps = {"nan_stamp": np.nan, "infinite_stamp": np.inf} | {k: self.now + s for k, s in away.items()}
            stamp = stamps.get(kind, stamp)
        return ActionChunk(actions, stamp, dt)

    def finish(self):
        """Nothing comes any more: at rest in time, within range, for good."""
        end = self.motion.trajectory.end
        assert end <= self.now + self.robot.timing.timeout + self.motion.planner.step
        self.wait(max(end - self.now, 0.0) + 0.2)
        assert self.motion.update(self.now) in (State.HOLDING, State.STOPPED)
        rest = sample(self.motion.trajectory, self.now)[0]
        assert (rest >= self.limits.low - 1e-6).all() and (rest <= self.limits.high + 1e-6).all()
        assert self.judge.report()["commands_beyond_limits"] == dict.fromkeys(
            ("position", "velocity", "acceleration", "jerk"), 0
        )
        joins = self.motion.counters.joins
        assert joins.position_step < 1e-9 and joins.velocity_step < 1e-8


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*WANTED, *WANTED, *BROKEN, "pause", "disable"]),
        st.floats(0.001, 0.15) | st.sampled_from([1 / 30, 0.4, 1.2]),
        st.integers(0, 2**20),
    ),
    min_size=3,
    max_size=10,
)


@pytest.mark.parametrize("stitcher", STITCHERS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(ROBOTS), events=EVENTS)
def test_no_sequence_of_chunks_passes_a_limit(stitcher, name, events):
    rig = Rig(robot_of(name, stitcher))
    for kind, gap, seed in events:
        if kind == "disable":
            rig.motion.enable(False, rig.now)
            rig.wait(gap)
            rig.motion.enable(True, rig.now)
        elif kind != "pause":
            possible = {"stopping", "chunk_too_old"} | ({None} if kind in WANTED else BROKEN[kind])
            if rig.fresh:
                possible |= {None}  # nothing has been executed yet that it could be older than
            refused = rig.say(kind, seed)
            assert refused in possible, (kind, refused)
        rig.wait(gap)
    rig.finish()


@pytest.mark.parametrize("stitcher", STITCHERS)
@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_executed_is_refused_by_name_and_the_motion_goes_on(kind, stitcher):
    """The good chunk before it is executed to its end, as if the bad one had never come."""
    robot = robot_of("sim", stitcher)
    rig, alone = Rig(robot), Rig(robot)
    for each in (rig, alone):
        assert each.say("wild", 1) is None
        each.wait(0.1)
    refused = rig.say(kind, 2)
    assert refused in BROKEN[kind]
    assert rig.motion.counters.rejected == {refused: 1}
    assert rig.motion.state(rig.now) is State.RUNNING
    np.testing.assert_array_equal(rig.motion.trajectory.positions, alone.motion.trajectory.positions)
    rig.finish()


@pytest.mark.parametrize("kind", WANTED)
def test_what_a_policy_may_want_is_executed(kind):
    """Never refused; what is beyond the limits is clipped and counted."""
    rig = Rig(robot_of("sim", "blend"))
    for seed in range(4):
        assert rig.say(kind, seed) is None
        rig.wait(1 / 30)
    rig.finish()
    counters = rig.motion.counters
    assert counters.joins.count == 4 and not counters.rejected
    if kind in ("wild", "alternating"):
        assert counters.clipped.sum() > 0
        assert ((counters.clip_most > 0) == (counters.clipped > 0)).all()


def test_stamps_are_judged_at_a_ros_time_of_today():
    """A difference of a microsecond counts, at a time that a float64 resolves to a quarter of one."""
    rig = Rig(robot_of("sim", "blend"))
    rig.now = 1.76e9
    rig.motion.start(rig.robot.home, rig.now)
    rig.now += 0.05
    chunk = rig.make("calm", np.random.default_rng(0))
    for stamp, reason in ((0.0, None), (0.0, "chunk_not_newer"), (-1e-6, "chunk_not_newer"), (1e-6, None)):
        moved = dataclasses.replace(chunk, stamp=1.76e9 + stamp)
        assert rig.motion.chunk(moved, lambda: rig.now) == reason
