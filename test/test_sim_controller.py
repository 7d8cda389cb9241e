# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated controllers accept, refuse and interpolate as ros2_controllers do."""

import numpy as np
import pytest

from pi_vla_ros.sim.controller import (
    Command,
    ForwardCommandController,
    JointTrajectoryController,
)
from pi_vla_ros.sim.spline import Point, between

NAMES = ["a", "b"]
HOLD = np.array([0.5, -0.5])
ZERO = np.zeros(2)


def point(time, positions, velocities=None, accelerations=None, effort=False):
    def vector(values):
        return None if values is None else np.array(values, dtype=float)

    return Point(time, vector(positions), vector(velocities), vector(accelerations), effort)


def controller(**options):
    return JointTrajectoryController(NAMES, HOLD, **options)


# -- between two points


def test_positions_only_are_linear_and_the_velocity_jumps():
    a, b = point(1.0, [0, 0]), point(3.0, [1, -2])
    position, velocity = between(a, b, 1.5)
    assert position == pytest.approx([0.25, -0.5])
    assert velocity == pytest.approx([0.5, -1.0])


def test_velocities_make_it_cubic():
    a, b = point(0.0, [0, 0], [0, 1]), point(2.0, [1, 2], [0, 1])
    position, velocity = between(a, b, 1.0)
    assert position == pytest.approx([0.5, 1.0])
    assert velocity == pytest.approx([0.75, 1.0])  # 1.5 * 1 / 2 at the middle of a rest-to-rest cubic
    assert between(a, b, 0.5)[0][0] == pytest.approx(3 * 0.25**2 - 2 * 0.25**3)


def test_accelerations_make_it_quintic():
    a, b = point(0.0, [0, 0], [0, 0], [0, 0]), point(1.0, [1, 0], [0, 0], [0, 0])
    s = 0.3
    position, velocity = between(a, b, s)
    assert position[0] == pytest.approx(10 * s**3 - 15 * s**4 + 6 * s**5)
    assert velocity[0] == pytest.approx(30 * s**2 - 60 * s**3 + 30 * s**4)


def test_quintic_meets_both_ends_with_position_velocity_and_acceleration():
    a = point(0.0, [0.3, 0], [0.7, 0], [-1.1, 0])
    b = point(0.8, [-0.2, 0], [0.4, 0], [2.3, 0])
    h = 1e-5
    for end, inside in ((a, h), (b, -h)):
        at, near = between(a, b, end.time), between(a, b, end.time + inside)
        assert at[0][0] == pytest.approx(end.positions[0])
        assert at[1][0] == pytest.approx(end.velocities[0])
        slope = (near[1][0] - at[1][0]) / inside
        assert slope == pytest.approx(end.accelerations[0], abs=1e-3)


def test_accelerations_of_one_point_only_are_not_used():
    a, b = point(0.0, [0, 0], [0, 0]), point(1.0, [1, 0], [0, 0], [0, 0])
    assert between(a, b, 0.25)[0][0] == pytest.approx(3 * 0.25**2 - 2 * 0.25**3)


def test_time_is_held_inside_the_segment():
    a, b = point(1.0, [0, 0]), point(2.0, [1, 1])
    assert between(a, b, 0.0)[0] == pytest.approx([0, 0])
    assert between(a, b, 9.0)[0] == pytest.approx([1, 1])


# -- what is accepted


def good(**changes):
    values = dict(stamp=100.0, joint_names=NAMES, points=[point(0, [0, 0]), point(1, [1, 1])])
    return Command(**{**values, **changes})


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("joints", good(joint_names=["a"])),
        ("joints", good(joint_names=["a", "c"])),
        ("joints", good(joint_names=["a", "a"])),
        ("joints", good(joint_names=[])),
        ("joints", good(joint_names=["a", "b", "c"])),
        ("empty", good(points=[])),
        ("ends_in_past", good(stamp=98.0)),
        ("ends_moving", good(points=[point(0, [0, 0]), point(1, [1, 1], [0, 1e-3])])),
        ("times", good(points=[point(0, [0, 0]), point(0, [1, 1])])),
        ("times", good(points=[point(0, [0, 0]), point(2, [1, 1]), point(1.5, [1, 1])])),
        ("sizes", good(points=[point(0, [0]), point(1, [1, 1])])),
        ("sizes", good(points=[point(0, None), point(1, [1, 1])])),
        ("sizes", good(points=[point(0, [0, 0], [0, 0, 0]), point(1, [1, 1])])),
        ("sizes", good(points=[point(0, [0, 0], [0, 0], [0]), point(1, [1, 1])])),
        ("effort", good(points=[point(0, [0, 0], effort=True), point(1, [1, 1])])),
    ],
)
def test_refused(reason, command):
    c = controller()
    assert not c.accept(command, now=100.0)
    assert c.tally.accepted == 0
    assert dict(c.tally.rejected) == {reason: 1}
    assert c.tally.messages[reason]
    assert c.sample(100.5, ZERO, ZERO) == pytest.approx(HOLD)


@pytest.mark.parametrize(
    "command",
    [
        good(),
        good(stamp=99.0),  # ends now
        good(stamp=0.0),  # now
        good(stamp=500.0),  # in the far future
        good(points=[point(0, [0, 0])]),
        good(points=[point(0, [0, 0], [1, 1]), point(1, [1, 1], [0, 1e-8])]),
        good(points=[point(0, [0, np.nan]), point(1, [1, 1])]),  # as the real one: no check for NaN
    ],
)
def test_accepted(command):
    c = controller()
    assert c.accept(command, now=100.0)
    assert c.tally.report() == {"accepted": 1, "rejected": {}, "messages": {}}


def test_a_refused_trajectory_leaves_the_one_before_in_place():
    c = controller()
    c.accept(good(stamp=0.0, points=[point(1, [1, 1])]), 100.0)
    c.sample(100.0, HOLD, ZERO)
    assert not c.accept(good(points=[]), 100.2)
    assert c.sample(102.0, HOLD, ZERO) == pytest.approx([1, 1])


# -- what is made of it


def test_holds_until_the_first_trajectory():
    assert controller().sample(3.0, ZERO, ZERO) == pytest.approx(HOLD)


def test_joints_go_by_name():
    c = controller()
    c.accept(good(joint_names=["b", "a"], points=[point(0, [10, 20]), point(1, [11, 21])]), 100.0)
    assert c.sample(100.5, ZERO, ZERO) == pytest.approx([20.5, 10.5])


def test_stamp_zero_starts_at_the_first_sample():
    c = controller()
    c.accept(good(stamp=0.0), 100.0)
    assert c.sample(100.2, ZERO, ZERO) == pytest.approx([0, 0])
    assert c.sample(100.7, ZERO, ZERO) == pytest.approx([0.5, 0.5])


def test_a_stamp_in_the_past_is_sampled_where_it_is_with_no_blending():
    c = controller()
    c.accept(good(stamp=99.6), 100.0)
    assert c.sample(100.0, HOLD, ZERO) == pytest.approx([0.4, 0.4])


def test_before_the_first_point_it_bridges_from_the_measured_state():
    c = controller()
    c.accept(good(stamp=101.0), 100.0)
    measured, moving = np.array([-1.0, 2.0]), np.array([9.0, 9.0])
    assert c.sample(100.0, measured, moving) == pytest.approx(measured)
    # linear: the point has no velocities. What is measured later does not matter.
    assert c.sample(100.5, ZERO, ZERO) == pytest.approx([-0.5, 1.0])
    assert c.sample(101.0, ZERO, ZERO) == pytest.approx([0, 0])


def test_the_bridge_is_cubic_where_the_point_has_velocities():
    c = controller()
    points = [point(0, [1, 0], [0, 0], [0, 0]), point(1, [1, 1], [0, 0], [0, 0])]
    c.accept(good(stamp=102.0, points=points), 100.0)
    c.sample(100.0, ZERO, np.array([0.4, 0.0]))
    # from 0 at 0.4 rad/s to 1 at rest in 2 s: at half time (0 + 1) / 2 + 2 * (0.4 - 0) / 8
    assert c.sample(101.0, ZERO, ZERO)[0] == pytest.approx(0.6)


def test_the_bridge_can_start_from_the_desired_state():
    c = controller(interpolate_from_desired_state=True)
    c.accept(good(stamp=101.0), 100.0)
    assert c.sample(100.0, np.array([9.0, 9.0]), ZERO) == pytest.approx(HOLD)


def test_a_new_trajectory_replaces_the_old_one_at_once():
    c = controller()
    c.accept(good(), 100.0)
    assert c.sample(100.2, ZERO, ZERO) == pytest.approx([0.2, 0.2])
    c.accept(good(points=[point(0, [5, 5]), point(1, [5, 5])]), 100.2)
    assert c.sample(100.3, ZERO, ZERO) == pytest.approx([5, 5])


def test_it_holds_the_last_point():
    c = controller()
    c.accept(good(), 100.0)
    assert c.sample(101.0, ZERO, ZERO) == pytest.approx([1, 1])
    assert c.sample(900.0, ZERO, ZERO) == pytest.approx([1, 1])


def test_after_the_end_the_next_bridge_starts_at_rest_in_the_desired_state():
    c = controller(interpolate_from_desired_state=True)
    c.accept(good(points=[point(0, [0, 0], [1, 1]), point(1, [1, 1], [0, 0])]), 100.0)
    c.sample(102.0, ZERO, ZERO)
    c.accept(good(stamp=104.0, points=[point(0, [3, 3], [0, 0])]), 102.0)
    c.sample(102.0, ZERO, ZERO)
    assert c.sample(103.0, ZERO, ZERO) == pytest.approx([2, 2])


# -- forward_command_controller


def test_the_last_command_stands_for_ever():
    c = ForwardCommandController(NAMES, HOLD)
    assert c.sample(0.0, ZERO, ZERO) == pytest.approx(HOLD)
    assert c.accept([1.0, 2.0])
    assert c.sample(1e6, ZERO, ZERO) == pytest.approx([1, 2])


def test_a_command_of_the_wrong_size_is_refused():
    c = ForwardCommandController(NAMES, HOLD)
    c.accept([1.0, 2.0])
    assert not c.accept([1.0])
    assert dict(c.tally.rejected) == {"wrong_size": 1}
    assert c.sample(1.0, ZERO, ZERO) == pytest.approx([1, 2])
