# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One serial arm with a two-finger hand, for any list of joints.

An arm is drawn standing straight up, each link along its own z, and then bent into a posture that
suits a table: hand pointing down, elbow up. MuJoCo's `ref` says which joint values that posture
has: the robot's `home`. So every robot starts in a good posture whatever the zero of its joints is.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace

import numpy as np

from pi_vla_ros.robot import Joint
from pi_vla_ros.sim.mjcf import add

# The servo of a joint: a critically damped spring on the reflected inertia of motor and gear. The
# links are light beside it, so every joint answers alike. It lags a ramp by 2 / STIFFNESS s, about
# as much as a real arm.
STIFFNESS = 60.0  # 1/s, natural frequency
INERTIA = 0.5  # kg m²
TORQUE = 60.0  # Nm
FINGER_INERTIA = 1.0  # kg
FINGER_FORCE = 40.0  # N
FINGER_TRAVEL = 0.04  # m, each finger
CLOSES_UPWARD = "knuckle"  # in the name of Robotiq's driver joints: 0 is open; elsewhere closed

ACCENTS = ((0.96, 0.45, 0.13, 1), (0.10, 0.55, 0.62, 1), (0.55, 0.35, 0.75, 1))


@dataclass(frozen=True)
class Link:
    """What one joint carries.

    kind:   'turn' about the link's own axis (z), or 'bend' across it (y).
    length: m, to the next joint.
    radius: m.
    bend:   rad, angle in the home posture.
    sign:   direction in which the joint counts.
    """

    kind: str
    length: float
    radius: float
    bend: float = 0.0
    sign: int = 1


_FIVE = (
    Link("turn", 0.13, 0.055),
    Link("bend", 0.24, 0.045, 0.4),
    Link("bend", 0.24, 0.040, 1.5),
    Link("bend", 0.07, 0.036, math.pi - 1.9),
    Link("turn", 0.03, 0.034, math.pi / 2),
)
_SIX = (
    Link("turn", 0.16, 0.060),
    Link("bend", 0.29, 0.048, 0.4),
    Link("bend", 0.11, 0.046, 1.6),
    Link("turn", 0.15, 0.042),
    Link("bend", 0.08, 0.038, math.pi - 2.0),
    Link("turn", 0.03, 0.036, math.pi / 2),
)
_SEVEN = (
    Link("turn", 0.18, 0.066),
    Link("bend", 0.13, 0.056, 0.5),
    Link("turn", 0.17, 0.053),
    Link("bend", 0.11, 0.050, 1.6, -1),
    Link("turn", 0.15, 0.046),
    Link("bend", 0.09, 0.042, math.pi - 2.1, -1),
    Link("turn", 0.03, 0.040, math.pi / 2),
)


def design(count: int) -> tuple[Link, ...]:
    """The links of an arm with `count` joints: yaw, pitch, pitch, roll, pitch, roll for six."""
    if count <= 4:
        return _FIVE[:count]
    if count <= 7:
        return {5: _FIVE, 6: _SIX, 7: _SEVEN}[count]
    return _SEVEN[:-1] + (replace(_SEVEN[-1], bend=0.0),) * (count - 7) + _SEVEN[-1:]


def build(model: ET.Element, base: ET.Element, joints: list[Joint], prefix: str, accent: tuple) -> ET.Element:
    """Add an arm to body `base` and its motors to `model`; the last joint may be a gripper.

    Returns the body of the hand. `prefix` keeps the names of two arms apart; `accent` is a colour.
    """
    gripper = joints[-1] if joints[-1].role == "gripper" else None
    turning = joints[:-1] if gripper else joints
    _visual(base, "cylinder", (0.085, 0.012), (0, 0, 0.012), material="dark")
    _visual(base, "cylinder", (0.070, 0.045), (0, 0, 0.065), material="shell")
    body, height = base, 0.11
    for index, (joint, link) in enumerate(zip(turning, design(len(turning)), strict=True)):
        body = _link(body, f"{prefix}/link{index + 1}", height, joint, link)
        _motor(model, joint.name, INERTIA, TORQUE)
        _draw(body, link, accent)
        height = link.length
    hand = add(body, "body", name=f"{prefix}/hand", pos=(0, 0, height), gravcomp=1)
    add(hand, "inertial", pos=(0, 0, 0.03), mass=0.3, diaginertia=(1e-3, 1e-3, 1e-3))
    _visual(hand, "cylinder", (0.036, 0.008), (0, 0, 0.008), rgba=accent)
    _solid(hand, "box", (0.024, 0.075, 0.026), (0, 0, 0.042), "dark")
    if gripper:
        _fingers(model, hand, gripper.name, f"{prefix}/mimic")
    else:
        _solid(hand, "capsule", (0.010, 0.04), (0, 0, 0.105), "shell")
    return hand


def opening(gripper: Joint) -> tuple[float, float]:
    """(gain, bias): joint value = gain * finger travel + bias; travel in m, 0 is closed."""
    low, high = gripper.position
    if CLOSES_UPWARD in gripper.name:
        low, high = high, low
    return (high - low) / FINGER_TRAVEL, low


def _link(parent: ET.Element, name: str, height: float, joint: Joint, link: Link) -> ET.Element:
    """The body that `joint` carries, bent into the home posture."""
    home = sum(joint.position) / 2 if joint.home is None else joint.home
    axis = np.array((0, 0, 1) if link.kind == "turn" else (0, 1, 0))
    quat = (math.cos(link.bend / 2), *(math.sin(link.bend / 2) * axis))
    body = add(parent, "body", name=name, pos=(0, 0, height), quat=quat, gravcomp=1)
    middle = (0, 0, link.length / 2)
    add(body, "inertial", pos=middle, mass=0.3, diaginertia=(1e-3, 1e-3, 1e-3))
    span = dict(ref=home, range_=joint.position)
    add(body, "joint", name=joint.name, axis=link.sign * axis, armature=INERTIA, **span)
    return body


def _draw(body: ET.Element, link: Link, accent: tuple) -> None:
    r, length = link.radius, link.length
    if link.kind == "turn":
        half = (length - 0.012) / 2
        _visual(body, "cylinder", (r * 1.02, 0.006), (0, 0, 0.006), rgba=accent)
        _visual(body, "cylinder", (r * 0.98, half), (0, 0, 0.012 + half), material="shell")
    else:
        across = dict(euler=(math.pi / 2, 0, 0))
        _visual(body, "cylinder", (r * 1.05, r * 1.18), (0, 0, 0), material="dark", **across)
        _visual(body, "cylinder", (r * 0.80, r * 1.28), (0, 0, 0), material="shell", **across)
        _visual(body, "cylinder", (r * 0.95, length / 2), (0, 0, length / 2), material="shell")


def _fingers(model: ET.Element, hand: ET.Element, leader: str, mimic: str) -> None:
    """Two fingers that slide along the hand's y; the second follows the first."""
    slack = 0.002  # m: a servo at the end of its range does not work against a stop
    slide = dict(type="slide", range_=(-slack, FINGER_TRAVEL + slack), armature=FINGER_INERTIA)
    for name, side in ((leader, 1), (mimic, -1)):
        place = (0, side * 0.008, 0.068)
        finger = add(hand, "body", name=f"{name}/finger", pos=place, gravcomp=1)
        add(finger, "inertial", pos=(0, 0, 0.03), mass=0.05, diaginertia=(1e-4, 1e-4, 1e-4))
        add(finger, "joint", name=name, axis=(0, side, 0), **slide)
        _solid(finger, "box", (0.011, 0.007, 0.022), (0, side * 0.004, 0.020), "shell")
        _solid(finger, "box", (0.010, 0.005, 0.018), (0, side * -0.001, 0.052), "rubber")
    _motor(model, leader, 2 * FINGER_INERTIA, FINGER_FORCE)
    add(_section(model, "equality"), "joint", joint1=mimic, joint2=leader, solref=(0.008, 1))


def _motor(model: ET.Element, joint: str, inertia: float, force: float) -> None:
    gains = dict(kp=inertia * STIFFNESS**2, kv=2 * inertia * STIFFNESS)
    actuators = _section(model, "actuator")
    add(actuators, "position", name=joint, joint=joint, forcerange=(-force, force), **gains)


def _section(model: ET.Element, tag: str) -> ET.Element:
    found = model.find(tag)
    return add(model, tag) if found is None else found


def _visual(body: ET.Element, kind: str, size, pos, **more) -> None:
    """A shape that is seen but touches nothing."""
    add(body, "geom", type=kind, size=size, pos=pos, mass=0, contype=0, conaffinity=0, **more)


def _solid(body: ET.Element, kind: str, size, pos, material: str) -> None:
    """A shape that touches table and blocks, but no part of an arm."""
    touch = dict(contype=1, conaffinity=0, friction=(1.2, 0.005, 0.0001))
    add(body, "geom", type=kind, size=size, pos=pos, mass=0, material=material, **touch)
