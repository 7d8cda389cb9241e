# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated arms: every robot file makes one that stands still, follows and repeats itself."""

import dataclasses

import mujoco
import numpy as np
import pytest

from pi_vla_ros.robot import Joint, load_robot, robot_names
from pi_vla_ros.sim.arm import SimArm
from pi_vla_ros.sim.chain import STIFFNESS, design
from pi_vla_ros.sim.scene import BLOCKS, scene_xml, split_arms

ROBOTS = ["aloha", "droid", "sim", "so101", "ur5e"]


@pytest.fixture(params=ROBOTS)
def robot(request):
    return load_robot(request.param)


def away(robot):
    """(joints,) targets half a rad (or a third of the range) from home, inside the ranges."""
    low, high = np.array([joint.position for joint in robot.joints]).T
    way = np.array([0.5 if joint.role == "arm" else 0.3 for joint in robot.joints])
    way = np.where([joint.role == "arm" for joint in robot.joints], way, way * (high - low))
    return robot.home + np.where(robot.home + way > high, -way, way)


def test_all_robots_are_tried():
    assert set(ROBOTS) <= set(robot_names())


def test_it_starts_at_home_and_stays_there(robot):
    arm = SimArm(robot)
    assert arm.positions() == pytest.approx(robot.home, abs=1e-9)
    assert arm.velocities() == pytest.approx(np.zeros(len(robot.joints)))
    arm.step_to(1.0)
    assert arm.time == pytest.approx(1.0)
    assert arm.positions() == pytest.approx(robot.home, abs=1e-3)


def test_it_follows_a_ramp_with_a_small_lag(robot):
    arm, goal = SimArm(robot), away(robot)
    speed = goal - robot.home
    for k in range(500):
        arm.set_targets(robot.home + speed * k / 500)
        arm.step_to((k + 1) * arm.step)
    behind = (arm.target - arm.positions()) / speed
    assert behind == pytest.approx(np.full(len(speed), 2 / STIFFNESS), abs=0.01)  # s
    assert arm.velocities() == pytest.approx(speed, rel=0.02)
    arm.set_targets(goal)
    arm.step_to(2.0)
    assert arm.positions() == pytest.approx(goal, abs=2e-3)
    assert arm.velocities() == pytest.approx(np.zeros(len(speed)), abs=1e-3)


def test_the_same_seed_gives_the_same_motion_bit_for_bit():
    robot = load_robot("sim")

    def run(arm):
        for k in range(300):
            arm.set_targets(robot.home + 0.3 * np.sin(0.01 * k))
            arm.step_to(arm.time + arm.step)
        return arm.world()

    arm = SimArm(robot, seed=3)
    first = run(arm)
    arm.reset(seed=3)
    assert np.array_equal(first, run(arm))
    assert np.array_equal(first, run(SimArm(robot, seed=3)))
    arm.reset(seed=4)
    assert not np.array_equal(first, run(arm))


def test_blocks_lie_apart_on_the_table_and_stay():
    arm = SimArm(load_robot("sim"), seed=11)
    starts = np.array([arm.world()[a : a + 3] for a in arm.scene.blocks])
    arm.step_to(1.0)
    ends = np.array([arm.world()[a : a + 3] for a in arm.scene.blocks])
    assert len(starts) == len(BLOCKS)
    assert ends == pytest.approx(starts, abs=2e-3)
    gaps = np.linalg.norm(starts[:, None] - starts[None], axis=-1) + np.eye(len(starts))
    assert gaps.min() > 0.08


def test_targets_are_clamped_and_numbers_that_are_none_are_refused():
    robot = load_robot("sim")
    arm = SimArm(robot)
    assert arm.set_targets(robot.home + 100)
    assert arm.target == pytest.approx([joint.position[1] for joint in robot.joints])
    before = arm.target
    bad = robot.home.copy()
    bad[2] = np.nan
    assert not arm.set_targets(bad)
    assert arm.refused == 1
    assert arm.target is before
    with pytest.raises(ValueError, match=r"must be \(8,\)"):
        arm.set_targets(robot.home[:3])


@pytest.mark.parametrize(("name", "opens_with"), [("sim", 1), ("aloha", 1), ("so101", 1), ("ur5e", -1), ("droid", -1)])
def test_grippers_close_and_open_as_their_joint_says(name, opens_with):
    robot = load_robot(name)
    arm = SimArm(robot)
    index = [joint.role for joint in robot.joints].index("gripper")
    opening = {}
    for end in (0, 1):
        target = robot.home
        target[index] = robot.joints[index].position[end]
        arm.reset()
        arm.set_targets(target)
        arm.step_to(1.0)
        span = np.ptp(robot.joints[index].position)
        assert arm.positions()[index] == pytest.approx(target[index], abs=0.01 * span)
        opening[end] = arm.world()[arm.scene.qpos[index]]
    assert np.sign(opening[1] - opening[0]) == opens_with
    assert abs(opening[1] - opening[0]) == pytest.approx(0.04, abs=1e-3)


def test_a_hand_pushed_into_the_table_is_held_up_and_comes_back():
    robot = load_robot("sim")
    arm = SimArm(robot)
    down = robot.home
    down[1] += 0.8
    arm.set_targets(down)
    arm.step_to(1.5)
    assert np.isfinite(arm.world()).all()
    assert down[1] - arm.positions()[1] > 0.05
    assert np.abs(arm.velocities()).max() < 1.0
    arm.set_targets(robot.home)
    arm.step_to(3.0)
    assert arm.positions() == pytest.approx(robot.home, abs=5e-3)


def test_a_block_that_lies_still_wakes_when_it_is_pushed():
    robot = load_robot("sim")
    arm = SimArm(robot)
    low = robot.home
    low[1] += 0.35  # lean forward,
    low[5] += 0.35  # hand upright
    arm.set_targets(low)
    arm.step_to(1.0)
    tip = arm._data.body("gripper/finger").xpos + np.array([0, 0, -0.07])
    assert 0 < tip[2] < 0.04
    block = arm.scene.blocks[0]
    arm._data.qpos[block : block + 3] = (tip[0], tip[1] + 0.08, 0.0225)
    arm.step_to(3.0)
    before = arm.world()[block : block + 3]
    assert before == pytest.approx([tip[0], tip[1] + 0.08, 0.0225], abs=2e-3)
    low[0] += 0.3
    arm.set_targets(low)
    arm.step_to(4.0)
    assert arm.world()[block + 1] - before[1] > 0.05
    arm.step_to(6.0)
    assert arm.positions() == pytest.approx(low, abs=5e-3)


def test_arms_end_after_grippers():
    def joint(role):
        return Joint("j", position=(-1.0, 1.0), velocity=1.0, acceleration=1.0, role=role)

    for roles, lengths in (
        (["arm", "gripper", "arm", "arm", "gripper"], [2, 3]),
        (["arm", "arm"], [2]),
        (["arm", "gripper", "arm"], [2, 1]),
        (["gripper"], [1]),
    ):
        assert [len(arm) for arm in split_arms([joint(role) for role in roles])] == lengths


@pytest.mark.parametrize("count", range(10))
def test_an_arm_can_have_any_number_of_joints(count):
    assert len(design(count)) == count
    template = load_robot("sim").joints
    joints = [dataclasses.replace(template[0], name=f"joint{i}") for i in range(count)]
    robot = dataclasses.replace(load_robot("sim"), joints=(*joints, template[-1]))
    arm = SimArm(robot)
    arm.step_to(0.5)
    assert arm.positions() == pytest.approx(robot.home, abs=1e-3)


def test_an_arm_without_a_gripper_and_cameras_with_other_names():
    sim = load_robot("sim")
    camera = sim.cameras["base_0_rgb"]
    slots = {"base_0_rgb": camera, "overhead": camera, "side": camera}
    robot = dataclasses.replace(sim, joints=sim.joints[:-1], cameras=slots)
    model = mujoco.MjModel.from_xml_string(scene_xml(robot, 0.002))
    assert [model.camera(i).name for i in range(model.ncam)] == list(slots)
