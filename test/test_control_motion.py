# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every edge of the motion's state machine, with a clock and an output of our own."""

import numpy as np
import pytest

from pi_vla_ros.control.motion import MotionController, State
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

ROBOT = load_robot("sim")


class Rig:
    """A motion controller, its clock, and what it sent."""

    def __init__(self, accept=True):
        self.now, self.sent, self.accept = 100.0, [], accept
        self.motion = MotionController(ROBOT, self.send)

    def send(self, plan):
        self.sent.append(plan)
        return self.accept

    def clock(self):
        return self.now

    def chunk(self, offset=0.3, age=0.05, joints=8):
        actions = np.tile(np.resize(ROBOT.home, joints) + offset * 0.05, (50, 1))
        return self.motion.chunk(ActionChunk(actions, self.now - age, 1 / 30), self.clock)

    def state(self):
        return self.motion.update(self.now)

    def running(self):
        self.motion.start(ROBOT.home, self.now)
        self.now += 0.03
        assert self.chunk() is None
        return self


def test_nothing_is_commanded_before_start():
    rig = Rig()
    assert rig.state() is State.INACTIVE and rig.chunk() == "not_active"
    rig.motion.enable(False, rig.now)
    rig.motion.estop(True, rig.now)
    rig.motion.finish(rig.now)
    assert rig.sent == []


def test_start_holds_the_measured_state():
    rig = Rig()
    rig.motion.start(ROBOT.home + 0.01, rig.now)
    assert rig.state() is State.HOLDING
    np.testing.assert_array_equal(rig.sent[0].trajectory.positions[-1], ROBOT.home + 0.01)


def test_a_chunk_runs_then_ends_then_holds():
    rig = Rig().running()
    assert rig.state() is State.RUNNING
    plan = rig.sent[-1]
    rig.now = plan.tail * rig.motion.planner.step + 1e-4
    assert rig.state() is State.ENDING
    rig.now = plan.trajectory.end
    assert rig.state() is State.HOLDING
    names = [name for _, name in rig.motion.counters.transitions]
    assert names == ["INACTIVE -> HOLDING", "HOLDING -> RUNNING", "RUNNING -> ENDING", "ENDING -> HOLDING"]


def test_the_first_motion_ramps_and_the_next_blends():
    """From rest, the difference fades within start_ramp; while moving, within blend."""
    slow = Rig().running()
    first = slow.sent[-1].trajectory
    speed_from_rest = np.abs(first.velocities).max()
    moving = Rig().running()
    moving.now += 0.1
    moving.chunk()
    quick = np.abs(moving.sent[-1].trajectory.velocities).max()
    assert ROBOT.motion.start_ramp > 5 * ROBOT.motion.blend
    assert speed_from_rest < quick


def test_disable_brakes_and_holds_and_enable_allows_again():
    rig = Rig().running()
    rig.now += 0.2
    rig.chunk()
    rig.motion.enable(False, rig.now)
    assert rig.state() is State.STOPPED and rig.chunk() == "disabled"
    brake = rig.sent[-1].trajectory
    assert (brake.velocities[-1] == 0).all() and brake.end - rig.now < 0.4
    rig.now = brake.end + 1
    assert rig.state() is State.STOPPED
    rig.motion.enable(True, rig.now)
    assert rig.state() is State.HOLDING
    assert rig.chunk() is None and rig.state() is State.RUNNING


def test_estop_latches_until_released_and_enabled():
    rig = Rig().running()
    rig.now += 0.2
    rig.chunk()
    at_rest = rig.motion.estop(True, rig.now)
    assert rig.state() is State.ESTOP and rig.chunk() == "estop"
    brake = rig.sent[-1].trajectory
    assert at_rest == brake.end and (sample(brake, at_rest)[1] == 0).all()
    count = len(rig.sent)
    rig.motion.estop(True, rig.now)  # again: nothing new
    rig.motion.enable(True, rig.now)  # does not release
    assert rig.state() is State.ESTOP and rig.chunk() == "estop" and len(rig.sent) == count
    rig.now = at_rest
    rig.motion.stopped(rig.now)
    assert rig.state() is State.ESTOP
    rig.motion.estop(False, rig.now)
    assert rig.state() is State.INACTIVE
    rig.motion.start(ROBOT.home, rig.now)
    assert rig.state() is State.STOPPED and rig.chunk() == "disabled"
    rig.motion.enable(True, rig.now)
    assert rig.chunk() is None and rig.state() is State.RUNNING


def test_a_braking_plan_that_came_too_late_is_tried_again_later():
    rig = Rig().running()
    rig.now += 0.2
    rig.chunk()
    answers = iter([False, False, True])
    rig.motion._send = lambda plan: (rig.sent.append(plan), next(answers))[1]
    at_rest = rig.motion.estop(True, rig.now)
    late, later, taken = rig.sent[-3:]
    assert late.join < later.join < taken.join
    assert rig.motion.trajectory is taken.trajectory and at_rest == taken.trajectory.end < rig.now + 0.6


def test_finish_brakes_then_stopped_is_inactive():
    rig = Rig().running()
    rig.now += 0.2
    at_rest = rig.motion.finish(rig.now)
    assert rig.now < at_rest < rig.now + 0.5
    rig.motion.stopped(at_rest)
    assert rig.motion.update(at_rest) is State.INACTIVE and rig.motion.trajectory is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda rig: rig.chunk(joints=7), "chunk_shape"), (lambda rig: rig.chunk(age=0.06), "chunk_not_newer")],
)
def test_a_bad_chunk_leaves_the_last_good_trajectory(make, reason):
    rig = Rig().running()
    before = rig.motion.trajectory
    rig.now += 0.01
    assert make(rig) == reason
    assert rig.motion.trajectory is before and rig.state() is State.RUNNING
    assert rig.motion.counters.rejected == {reason: 1}


def test_a_plan_that_the_output_refuses_is_forgotten():
    rig = Rig().running()
    before = rig.motion.trajectory
    rig.accept, rig.now = False, rig.now + 0.01
    assert rig.chunk() == "plan_late" and rig.motion.trajectory is before


def test_a_plan_that_took_too_long_is_not_sent():
    rig = Rig().running()
    times = iter([rig.now, rig.now, rig.now + 1.0, rig.now + 1.0])
    sent = len(rig.sent)
    actions = np.tile(ROBOT.home, (50, 1))
    assert rig.motion.chunk(ActionChunk(actions, rig.now, 1 / 30), lambda: next(times)) == "plan_late"
    assert len(rig.sent) == sent


def test_joins_are_measured_and_clips_counted():
    """A far but calm target needs no clip and is joined C2; a policy that rattles is cut by the limits."""
    rig = Rig().running()
    for _ in range(20):
        rig.now += 1 / 30
        assert rig.chunk(offset=20.0) is None  # 1 rad away
    joins, clipped = rig.motion.counters.joins, rig.motion.counters.clipped
    assert joins.count == 21 and joins.position_step < 1e-9 and joins.velocity_step < 1e-6
    assert joins.acceleration_step < 0.1 and clipped.sum() == 0
    rattle = ROBOT.home + 0.5 * (-1.0) ** np.arange(50)[:, None]
    for _ in range(12):
        rig.now += 1 / 30
        assert rig.motion.chunk(ActionChunk(rattle, rig.now - 0.05, 1 / 30), rig.clock) is None
    assert clipped[1:].sum() > 0
    assert joins.acceleration_step < 1e-6  # C2 even so
