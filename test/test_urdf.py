# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Limits from a URDF: what it gives, how it goes together with the robot file, and what is refused by name."""

import math

import pytest

from pi_vla_ros.replay.untracked import without_tracking
from pi_vla_ros.robot import load_robot
from pi_vla_ros.schema import ConfigError

ROBOT = """
name: r
cameras: {{base_0_rgb: {{topic: image}}}}
timing: {{timeout: 2.0}}
{urdf}
joints:
  - {{name: a, {a}}}
  - {{name: b, acceleration: 8{b}}}
"""
URDF = """<?xml version="1.0" encoding="utf-8"?>
<robot name="r">
  <link name="base"/>
  <joint name="a" type="revolute"><limit lower="-2" upper="1.5" velocity="3" effort="10"/></joint>
  <joint name="b" type="continuous"><limit velocity="2.5" effort="10"/></joint>
  <joint name="finger" type="prismatic"><mimic joint="b"/><limit lower="0" upper="1" velocity="1"/></joint>
  <joint name="base_joint" type="fixed"/>
  <ros2_control name="hw"><joint name="c"><command_interface name="position"/></joint></ros2_control>
</robot>
"""


def write(tmp_path, a="acceleration: 8", b="", urdf="urdf: meshes/r.urdf", xml=URDF):
    (tmp_path / "meshes").mkdir(exist_ok=True)
    (tmp_path / "meshes" / "r.urdf").write_text(xml)
    (tmp_path / "r.yaml").write_text(ROBOT.format(a=a, b=b, urdf=urdf))
    return tmp_path / "r.yaml"


def joints(tmp_path, *description, **changes):
    return load_robot(write(tmp_path, **changes), *description).joints


def test_the_urdf_gives_what_the_robot_file_leaves_out(tmp_path):
    a, b = joints(tmp_path)
    assert (a.position, a.velocity, a.continuous) == ((-2.0, 1.5), 3.0, False)
    assert (b.position, b.velocity, b.continuous) == ((-math.pi, math.pi), 2.5, True)


def test_the_narrower_applies(tmp_path):
    a, b = joints(tmp_path, a="acceleration: 8, position: [-1, 5], velocity: 9", b=", velocity: 1, position: [0, 1]")
    assert (a.position, a.velocity) == ((-1.0, 1.5), 3.0)
    assert (b.position, b.velocity, b.continuous) == ((0.0, 1.0), 1.0, False)  # turning without end is the wider


def test_soft_limits_and_those_of_newer_urdfs(tmp_path):
    newer = '<limit lower="-2" upper="1.5" velocity="2" acceleration="4" deceleration="3" jerk="60"/>'
    soft = '<safety_controller soft_lower_limit="-0.5" soft_upper_limit="1" k_velocity="1"/>'
    xml = URDF.replace('<limit lower="-2" upper="1.5" velocity="3" effort="10"/>', newer + soft)
    a, _ = joints(tmp_path, xml=xml)
    assert (a.position, a.velocity, a.acceleration, a.jerk) == ((-0.5, 1.0), 2.0, 3.0, 60.0)
    a, _ = joints(tmp_path, xml=xml, a="velocity: 1")  # acceleration is the URDF's alone
    assert (a.velocity, a.acceleration) == (1.0, 3.0)


@pytest.mark.parametrize("as_path", [True, False])
def test_the_parameter_goes_before_the_robot_files_urdf(tmp_path, as_path):
    other = URDF.replace('upper="1.5"', 'upper="0.25"')
    (tmp_path / "other.urdf").write_text(other)
    a, _ = joints(tmp_path, str(tmp_path / "other.urdf") if as_path else other)
    assert a.position == (-2.0, 0.25)


def test_a_joint_may_stand_outside_of_the_urdf(tmp_path):
    xml = URDF.replace('name="b"', 'name="other"')
    _, b = joints(tmp_path, xml=xml, b=", in_urdf: false, position: [0, 1], velocity: 1")
    assert b.position == (0.0, 1.0)


def test_the_copy_for_replay_finds_the_urdf_too(tmp_path):
    assert load_robot(without_tracking(str(write(tmp_path)))).joints[0].position == (-2.0, 1.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"urdf": "", "a": "velocity: 1, acceleration: 8"}, ["joints[0]: position of 'a': is missing", "in a URDF"]),
        ({"urdf": "urdf: none.urdf"}, ["r.yaml: urdf: ", "none.urdf cannot be read", "path"]),
        ({"xml": "  "}, ["r.urdf is empty"]),
        ({"xml": "robot:\n  a: 1"}, ["not a URDF: not valid XML: syntax error: line 1"]),
        ({"xml": "<sdf><joint name='a'/></sdf>"}, ["not a URDF: its root is <sdf>"]),
        ({"xml": '<!DOCTYPE r [<!ENTITY x "xxxx">]>' + URDF.split("\n", 1)[1]}, ["has a DOCTYPE"]),
        ({"xml": URDF.replace('name="b"', 'name="bb"')}, ["joints[1]: joint 'b' is not in", "a, base_joint, bb, fin"]),
        ({"a": "acceleration: 8}\n  - {name: finger, acceleration: 1"}, ["joints[1]: joint 'finger' mimics 'b'"]),
        ({"a": "acceleration: 8}\n  - {name: base_joint, acceleration: 1"}, ["'base_joint' is of type 'fixed'"]),
        ({"a": "velocity: 1"}, ["joints[0].acceleration: is missing", "of joint 'a'"]),
        ({"xml": URDF.replace(' velocity="3"', "")}, ["joints[0].velocity: is missing", "r.urdf", "joint 'a'"]),
        ({"xml": URDF.replace(' lower="-2"', "")}, ["joints[0].position: is missing", "joint 'a'"]),
        ({"b": ", continuous: false"}, ["joints[1].position: is missing", "joint 'b'"]),
        ({"a": "acceleration: 8, continuous: true"}, ["joints[0].continuous: is true", "'revolute'"]),
        ({"a": "acceleration: 8, position: [2, 3]"}, ["position: [2, 3]", "[-2.0, 1.5]", "nothing in common"]),
        ({"a": "acceleration: 8, home: 2"}, ["home of 'a': 2.0 is outside position [-2.0, 1.5]"]),
        ({"xml": URDF.replace('"3"', '"0"')}, ["joint 'a': velocity must be greater than 0, is 0.0"]),
        ({"xml": URDF.replace('"1.5"', '"-2"')}, ["joint 'a': lowest position must be below highest, is [-2.0, -2.0]"]),
        ({"xml": URDF.replace('"1.5"', '"${pi/2}"')}, ["limit upper must be a number, is '${pi/2}'", "xacro"]),
        ({"xml": URDF.replace('"1.5"', '"nan"')}, ["limit upper must be a number, is 'nan'"]),
        # what the robot file itself has wrong is still told as that
        ({"a": "acceleration: 8, position: [1, -1]"}, ["lowest must be below highest, is [1.0, -1.0]"]),
        ({"a": "acceleration: 8, velocity: fast"}, ["joints[0].velocity: must be a number, is 'fast'"]),
    ],
)  # fmt: skip
def test_refusals_name_joint_and_parameter(tmp_path, changes, words):
    with pytest.raises(ConfigError) as error:
        joints(tmp_path, **changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("given", ["<robot", "nowhere.urdf"])
def test_a_bad_parameter_is_named(tmp_path, given):
    with pytest.raises(ConfigError, match="parameter robot_description: "):
        joints(tmp_path, given)
