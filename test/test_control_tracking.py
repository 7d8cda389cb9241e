# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The tracking guard: patient with a moment, not with a blocked arm."""

import dataclasses

import numpy as np
import pytest

from pi_vla_ros.control.planner import Planner
from pi_vla_ros.control.tracking import TrackingGuard
from pi_vla_ros.robot import load_robot

ROBOT = load_robot("sim")
HOLD = Planner(ROBOT).hold(ROBOT.home, 100.0).trajectory


def test_an_arm_that_follows_never_trips():
    guard = TrackingGuard(ROBOT)
    for t in np.arange(100, 110, 0.01):
        assert guard.check(HOLD, ROBOT.home + 0.2, t) is None


def test_a_joint_that_stays_off_trips_after_its_time_and_is_named():
    guard, off = TrackingGuard(ROBOT), ROBOT.home.copy()
    off[2] += 0.6
    assert guard.check(HOLD, off, 100.0) is None
    assert guard.check(HOLD, off, 100.29) is None
    said = guard.check(HOLD, off, 100.31)
    assert "'joint3' is 0.600 off" in said and "0.5" in said
    guard.reset()
    assert guard.check(HOLD, off, 100.32) is None


def test_coming_back_in_time_forgives():
    guard, off = TrackingGuard(ROBOT), ROBOT.home + 0.6
    guard.check(HOLD, off, 100.0)
    guard.check(HOLD, ROBOT.home, 100.2)
    assert guard.check(HOLD, off, 100.4) is None


def test_without_tracking_nothing_trips_and_turns_do_not_count():
    robot = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, tracking=None) for j in ROBOT.joints))
    guard = TrackingGuard(robot)
    assert all(guard.check(HOLD, ROBOT.home + 3.0, t) is None for t in (100.0, 101.0))
    endless = tuple(dataclasses.replace(j, continuous=True, tracking=0.1) for j in ROBOT.joints)
    guard = TrackingGuard(dataclasses.replace(ROBOT, joints=endless))
    assert all(guard.check(HOLD, ROBOT.home + 2 * np.pi, t) is None for t in (100.0, 101.0))
    guard.check(HOLD, ROBOT.home + 0.2, 102.0)
    assert guard.check(HOLD, ROBOT.home + 0.2, 103.0) is not None
    assert ROBOT.motion.tracking_time == pytest.approx(0.3)
