# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The control loop of the simulated robot keeps to the clock, and does not race after a stall."""

import threading
import time

import numpy as np
import pytest

from pi_vla_ros.robot import load_robot
from pi_vla_ros.sim.arm import SimArm
from pi_vla_ros.sim.realtime import CATCH_UP, RealTime

PERIOD = 0.01


class Ramp:
    """A controller that asks for more and more, and notes when."""

    def __init__(self, home):
        self.home, self.times = home, []

    def sample(self, now, positions, velocities):
        self.times.append(now)
        return self.home + 0.01


def run(seconds, stall_at=None, stall=0.0):
    robot = load_robot("sim")
    arm, states, stop = SimArm(robot, step=PERIOD / 5), [], threading.Event()
    controller, began = Ramp(robot.home), time.monotonic()

    def publish(state):
        states.append((time.monotonic() - began, state))
        if len(states) == stall_at:
            time.sleep(stall)

    loop = RealTime(arm, controller, PERIOD, lambda: 5000.0 + time.monotonic() - began, publish)
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    time.sleep(seconds)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    return loop, arm, controller, states


def test_states_are_on_a_grid_of_the_clock():
    loop, arm, controller, states = run(0.6)
    stamps = np.array([state.stamp for _, state in states])
    gaps = np.diff(stamps) / PERIOD
    assert gaps == pytest.approx(np.round(gaps), abs=1e-3)
    assert gaps.min() > 0.5
    assert 5000 < stamps[0] < stamps[-1] < 5000.7
    assert len(states) + loop.missed <= 62
    assert all(at >= state.stamp - 5000 - 1e-4 for at, state in states)  # never early
    assert np.median(np.diff(controller.times)) == pytest.approx(PERIOD, abs=0.2 * PERIOD)
    assert np.diff(controller.times).min() >= 0 and np.diff(controller.times).max() <= 0.3  # a machine may stall
    # the arm has gone where it was told, and its world is in the snapshot
    last = states[-1][1]
    assert last.positions[0] - arm.robot.home[0] == pytest.approx(0.01, abs=1e-3)
    assert last.world[arm.scene.qpos[0]] == pytest.approx(last.positions[0])
    assert loop.worst_error.max() <= 0.0101


def test_after_a_stall_nothing_bursts_and_the_clock_is_right():
    loop, arm, _, states = run(0.8, stall_at=20, stall=0.3)
    stamps = np.array([state.stamp for _, state in states])
    stalled = int(np.argmax(np.diff(stamps)))
    assert stamps[stalled + 1] - stamps[stalled] >= 0.3 - PERIOD
    assert loop.missed >= 28
    assert np.diff(stamps).min() > 0.5 * PERIOD  # one state for all that was missed
    lost = stamps[-1] - 5000 - arm.time
    assert lost > 0.3 - CATCH_UP - 2 * PERIOD  # the arm stood still for the rest
