# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The final limiter: invisible on a legal trajectory, whatever its ticks; a clock that is set moves nothing."""

import dataclasses

import numpy as np
import pytest

from pi_vla_ros.control import guard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.control.planner import Planner
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

ROBOT = load_robot("sim")
ROBOT = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, jerk=10 * j.acceleration) for j in ROBOT.joints))
PLANNER = Planner(ROBOT)
LIMITS = dataclasses.replace(PLANNER.limits, jerk=2 * PLANNER.limits.acceleration / (PLANNER.window * PLANNER.step))
AMPLITUDE = np.array([0.4, 0.3, 0.3, 0.3, 0.4, 0.3, 0.4, 0.01])
NOW, RATE = 1.76e9, 480


def play(seconds, clock, rough=0.0, late=0.0):
    """Chunks at 30 Hz, played at 480 Hz with a share of `late` ticks missed; clock(monotonic) is the wall clock.

    Returns monotonic times, what the trajectory said, and what was emitted: positions, velocities.
    """
    rng, the_guard = np.random.default_rng(0), Guard(LIMITS)
    plan, next_chunk, time, rows = PLANNER.hold(ROBOT.home, NOW), NOW, 0.0, []
    while time < seconds:
        time += (rng.integers(2, 20) if rng.random() < late else 1) / RATE
        now = clock(time)
        if now >= next_chunk:
            next_chunk = now + 1 / 30
            ahead = now - 0.05 - NOW + np.arange(50)[:, None] / 30
            actions = ROBOT.home + AMPLITUDE * (np.sin(3 * ahead) + rough * rng.normal(size=(50, 8)))
            plan = PLANNER.follow(plan, ActionChunk(actions, now - 0.05, 1 / 30), now, 0.2)
        rows.append((time, *sample(plan.trajectory, now), *the_guard.command(plan.trajectory, now, time)))
    times, said, _, p, v = (np.array(column) for column in zip(*rows, strict=True))
    return times, said, p, v, the_guard


@pytest.mark.parametrize("rough", [0.0, 1.0])
def test_a_legal_trajectory_passes_untouched(rough):
    _, said, p, _, the_guard = play(3.0, lambda time: NOW + time, rough, late=0.02)
    assert the_guard.bridged == 0
    np.testing.assert_array_equal(p, said)


@pytest.mark.parametrize("installed", [True, False], ids=["ruckig", "without ruckig"])
@pytest.mark.parametrize("jump", [0.05, -0.05, 0.4, -0.4])
def test_a_clock_that_is_set_is_bridged(jump, installed, monkeypatch):
    if not installed:
        monkeypatch.setattr(guard, "ruckig", None)
    times, said, p, v, the_guard = play(4.0, lambda time: NOW + time + (jump if time > 2.0 else 0.0))
    dt = 1 / RATE
    assert np.abs(np.diff(said, axis=0)).max() * RATE > 10 * LIMITS.velocity.max()  # what would have been commanded
    assert (np.abs(np.diff(p, axis=0)) <= LIMITS.velocity * dt * 1.002 + 1e-5).all()
    assert (np.abs(v) <= LIMITS.velocity * 1.002).all()
    assert (np.abs(np.diff(v, axis=0)) <= LIMITS.acceleration * dt * 1.002).all()
    assert (np.abs(np.diff(v, n=2, axis=0)) <= LIMITS.jerk * dt**2 * 1.01 + 1e-6).all()
    apart = np.abs(p - said).max(axis=1) > 1e-9
    assert 0 < apart.sum() <= the_guard.bridged <= apart.sum() + 5
    assert not apart[times < 2.0].any() and not apart[times > 3.5].any()  # caught up with, and untouched again


def test_reset_begins_anew():
    the_guard = Guard(LIMITS)
    near, far = (PLANNER.hold(ROBOT.home + offset, NOW).trajectory for offset in (0.0, 0.01))
    np.testing.assert_array_equal(the_guard.command(near, NOW, 1.0)[0], ROBOT.home)
    moved = the_guard.command(far, NOW, 1.002)[0] - ROBOT.home
    assert moved.min() >= 0 and moved.max() < 1e-3
    the_guard.reset()
    np.testing.assert_array_equal(the_guard.command(far, NOW, 1.004)[0], ROBOT.home + 0.01)
