# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Robot files: all that are shipped are valid, and what is wrong is told with file, key and what is allowed."""

import numpy as np
import pytest
import yaml

from pi_vla_ros.processing.units import policy_state
from pi_vla_ros.resources import package_file
from pi_vla_ros.robot import RobotConfig, load_robot, robot_names
from pi_vla_ros.schema import ConfigError

GOOD = """
name: r
cameras: {base_0_rgb: {topic: image}}
joints:
  - {name: a, position: [-1, 1], velocity: 2, acceleration: 8}
  - {name: b, position: [-1, 1], velocity: 2, acceleration: 8}
"""


def load(tmp_path, text) -> RobotConfig:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_robot(path)


def test_the_shipped_robots():
    dims = {name: len(load_robot(name).joints) for name in robot_names()}
    assert dims == {"aloha": 14, "aloha_openpi": 14, "droid": 8, "sim": 8, "so101": 6, "ur5e": 7, "ur5e_servo": 7}
    assert list(load_robot("aloha").cameras) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    assert [j.action.kind for j in load_robot("droid").joints] == ["velocity"] * 7 + ["position"]


@pytest.mark.parametrize("name", robot_names())
def test_policy_units_invert(name):
    """What the state calls x, an action of x commands (position joints)."""
    robot = load_robot(name)
    states = {entry.name: entry.state for entry in robot.state_entries}
    for joint in robot.joints:
        if joint.action.kind == "position" and states[joint.name].kind == "linear":
            for x in joint.position:
                policy = states[joint.name].scale * x + states[joint.name].offset
                assert joint.action.scale * policy + joint.action.offset == pytest.approx(x, abs=1e-6)


def test_defaults(tmp_path):
    robot = load(tmp_path, GOOD)
    assert robot.timing.inference_hz == 30 and robot.output.command_hz == 480
    assert robot.home.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"camera": {}}, ["camera: unknown key", "did you mean 'cameras'?"]),
        ({"cameras": {}}, ["cameras: at least one"]),
        ({"cameras": {"base_0_rgb": {"topic": 3}}}, ["cameras.base_0_rgb.topic: must be text, is 3"]),
        ({"cameras": {"x": {"topic": "t", "transport": "h264"}}}, ["cameras.x.transport", "raw, compressed"]),
        ({"joints": []}, ["joints: at least one"]),
        ({"joints": [{"name": "a"}]}, ["joints[0].velocity: is missing"]),
        ({"timing": {"inference_hz": 0}}, ["timing.inference_hz: must be greater than 0 Hz, is 0"]),
        ({"timing": {"inference_hz": True}}, ["timing.inference_hz: must be a number"]),
        ({"timing": {"max_skew": float("nan")}}, ["timing.max_skew: must be finite"]),
        ({"timing": {"timeout": 0.3}}, ["timing.timeout: 0.3 s leaves no time to stop", "more than 0.45"]),
        ({"output": {"mode": "topic"}}, ["output.mode: is 'topic'; allowed: trajectory, stream, both"]),
        ({"output": {"command_hz": 49}}, ["output.command_hz: must be at least 50 Hz"]),
        ({"output": {"command_hz": 2000}}, ["output.command_hz: must be at most 1000 Hz"]),
        ({"name": None}, ["name: must be text, is empty"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, yaml.safe_dump(yaml.safe_load(GOOD) | change))
    assert str(error.value).startswith(str(tmp_path / "r.yaml"))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("joint", "words"),
    [
        ("{name: b, position: [1, -1], velocity: 2, acceleration: 8}", "lowest must be below highest"),
        ("{name: b, position: [-1, 1], velocity: -2, acceleration: 8}", "velocity: must be greater than 0"),
        ("{name: a, position: [-1, 1], velocity: 2, acceleration: 8}", "joints: named twice: a"),
        ("{name: b, position: [-1, 1], velocity: 2, acceleration: 8, home: 2}", "home of 'b': 2.0 is outside"),
        ("{name: b, position: [0, 0.1], velocity: 2, acceleration: 8}", "velocity of 'b': braking from 2.0 takes 0.25"),
        ("{name: b, position: [-1, 1], velocity: 2, acceleration: 8, jerk: 40}", "'b' needs 0.65 s to brake"),
        ("{name: b, position: [-1], velocity: 2, acceleration: 8}", "position: must have 2 entries, has 1"),
        ("{name: b, position: [-1, 1], velocity: 2, acceleration: 8, state: {scale: 0}}", "must not be 0"),
    ],
)
def test_wrong_joints(tmp_path, joint, words):
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        load(tmp_path, GOOD.replace("{name: b, position: [-1, 1], velocity: 2, acceleration: 8}", joint))


SERVO = """
name: r
cameras: {base_0_rgb: {topic: image}}
joints:
  - {name: z, axis: linear.z, velocity: 0.2, acceleration: 1, action: {kind: velocity}}
  - {name: grip, position: [0, 1], velocity: 1, acceleration: 8}
observed: [{name: a}, {name: b, state: {scale: 2}}]
twist: {frame: base}
output: {mode: stream}
"""


def test_axes_and_observed_joints(tmp_path):
    robot = load(tmp_path, SERVO)
    z, grip = robot.joints
    assert z.continuous and grip.position == (0, 1) and robot.twist.topic == "servo_node/delta_twist_cmds"
    assert [e.name for e in robot.state_entries] == ["a", "b"] and robot.measured_names == ["a", "b", "grip"]
    assert robot.positions(np.array([5.0, 6.0, 0.5])).tolist() == [0.0, 0.5]  # an axis has no position
    assert robot.measured(np.array([9.0, 0.5])).tolist() == [0.0, 0.0, 0.5]
    assert policy_state(robot, np.array([5.0, 6.0, 0.5])).tolist() == [5.0, 12.0]
    with pytest.raises(ValueError, match="must have 3 entries"):
        policy_state(robot, np.array([5.0, 6.0]))
    alone = load(tmp_path, SERVO.replace("observed: [{name: a}, {name: b, state: {scale: 2}}]", ""))
    assert alone.measured_names == [e.name for e in alone.state_entries] == ["grip"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("linear.z", "linear.w", "axis: is 'linear.w'; allowed: linear.x, linear.y"),
        ("{kind: velocity}", "{}", "action.kind of 'z': an axis of the twist needs 'velocity'"),
        ("axis: linear.z,", "axis: linear.z, position: [0, 1],", "position of 'z': an axis of the twist has none"),
        ("axis: linear.z,", "axis: linear.z, tracking: 1,", "tracking of 'z': an axis of the twist has none"),
        ("twist: {frame: base}", "", "twist: is missing: linear.z of joints need its frame"),
        ("frame: base", "topic: x", "twist.frame: is missing"),
        ("axis: linear.z,", "position: [0, 9],", "twist: no entry of joints has an axis; allowed: linear.x"),
        ("mode: stream", "mode: both", "output.mode: is 'both'; a robot with a twist needs 'stream'"),
        ("position: [0, 1]", "axis: linear.z, action: {kind: velocity}", "joints: axis given twice: linear.z"),
        ("{name: b, state", "{name: a, state", "observed: named twice: a"),
        ("position: [0, 1]", "position: [0, 1], state: {scale: 2}", "state of grip: the policy's state is made of obs"),
    ],
)
def test_wrong_axes(tmp_path, old, new, words):
    assert old in SERVO
    with pytest.raises(ConfigError) as error:
        load(tmp_path, SERVO.replace(old, new))
    assert words in str(error.value)


def test_not_yaml_and_not_there(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path, "a: [")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load(tmp_path, "- a")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_robot(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="'alhoa' is not known; known: aloha"):
        load_robot("alhoa")


def test_package_file():
    assert package_file("config/fastdds.xml").read_text().startswith("<?xml")
    with pytest.raises(FileNotFoundError, match="not installed"):
        package_file("config/none.xml")
