# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The world: a robot's arms, a table with coloured blocks, light, and one camera per slot."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import mujoco
import numpy as np

from pi_vla_ros.robot import Joint, RobotConfig
from pi_vla_ros.sim import chain
from pi_vla_ros.sim.mjcf import add, text
from pi_vla_ros.sim.viewpoints import place_cameras

BASE_X = -0.40  # m: arms stand here, side by side, and look along +x
SPACING = 0.56  # m between two arms
TABLE = ((-0.60, 0.42), (-0.55, 0.55))  # m: x and y; its top is z = 0
MAT = ((-0.20, 0.36), (-0.45, 0.21))
BLOCKS_AT = ((-0.10, 0.26), (-0.36, 0.14))  # where blocks may lie
TRAY_AT, TRAY_HALF = (0.10, 0.33), (0.08, 0.145)
BLOCK_SIZE = 0.045  # m, edge
BLOCKS = {
    "red": (0.86, 0.16, 0.15, 1),
    "green": (0.17, 0.62, 0.28, 1),
    "blue": (0.13, 0.38, 0.82, 1),
    "yellow": (0.98, 0.76, 0.10, 1),
    "purple": (0.52, 0.25, 0.66, 1),
}
MATERIALS = {  # red, green, blue; shine
    "shell": ((0.92, 0.92, 0.90), 0.4),
    "dark": ((0.20, 0.22, 0.25), 0.3),
    "rubber": ((0.10, 0.10, 0.11), 0.0),
    "table": ((0.80, 0.68, 0.53), 0.05),
    "mat": ((0.34, 0.41, 0.45), 0.0),
    "lines": ((0.45, 0.53, 0.57), 0.0),
    "legs": ((0.35, 0.30, 0.26), 0.0),
    "tray": ((0.55, 0.62, 0.68), 0.1),
    "floor": ((0.58, 0.60, 0.62), 0.0),
}
LARGEST_IMAGE = (1280, 960)  # pixels: width, height


@dataclass(frozen=True)
class Scene:
    """A compiled world and where a robot's joints are in it.

    qpos, qvel, ctrl: (joints,) index of each robot joint into MuJoCo's vectors.
    gain, bias:       (joints,) value in robot units = gain * qpos + bias; 1, 0 but for grippers.
    blocks:           index of the first of the seven qpos numbers of each block.
    """

    model: mujoco.MjModel
    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    blocks: tuple[int, ...]


def build_scene(robot: RobotConfig, timestep: float = 0.002) -> Scene:
    """The world of `robot`; `timestep` in s."""
    model = mujoco.MjModel.from_xml_string(scene_xml(robot, timestep))
    joints = [model.joint(name) for name in robot.joint_names]
    maps = [chain.opening(j) if j.role == "gripper" else (1.0, 0.0) for j in robot.joints]
    return Scene(
        model=model,
        qpos=np.array([joint.qposadr[0] for joint in joints]),
        qvel=np.array([joint.dofadr[0] for joint in joints]),
        ctrl=np.array([model.actuator(name).id for name in robot.joint_names]),
        gain=np.array([gain for gain, _ in maps]),
        bias=np.array([bias for _, bias in maps]),
        blocks=tuple(int(model.joint(f"{name}_block").qposadr[0]) for name in BLOCKS),
    )


def split_arms(joints: Sequence[Joint]) -> list[list[Joint]]:
    """Joints of each arm: one ends after each gripper, and at the end."""
    ends = [i + 1 for i, joint in enumerate(joints) if joint.role == "gripper"]
    bounds = [0, *ends] + ([len(joints)] if ends[-1:] != [len(joints)] else [])
    return [list(joints[a:b]) for a, b in pairwise(bounds)]


def scene_xml(robot: RobotConfig, timestep: float) -> str:
    """The MJCF of the world."""
    model = ET.Element("mujoco", model=f"pi_vla_ros {robot.name}")
    add(model, "compiler", angle="radian", autolimits=True)
    option = add(model, "option", timestep=timestep, integrator="implicitfast", cone="elliptic", iterations=20)
    if hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"):  # awake, blocks at rest cost two thirds of a step
        option.set("sleep_tolerance", "0.01")
        add(option, "flag", sleep="enable")
    _look(model)
    world = add(model, "worldbody")
    _room(world)
    hands = _arms(model, world, split_arms(robot.joints))
    _blocks(world)
    place_cameras(world, hands, list(robot.cameras))
    return text(model)


def _look(model: ET.Element) -> None:
    """Cheap to draw on a CPU: no shadows or reflections, one sample a pixel, few triangles."""
    visual = add(model, "visual")
    add(visual, "quality", shadowsize=0, offsamples=0, numslices=16, numstacks=8, numquads=1)
    add(visual, "global", offwidth=LARGEST_IMAGE[0], offheight=LARGEST_IMAGE[1])
    light = dict(ambient=(0.36, 0.36, 0.38), diffuse=(0.25, 0.25, 0.25), specular=(0, 0, 0))
    add(visual, "headlight", **light)
    add(visual, "map", znear=0.01, zfar=12)
    add(model, "statistic", extent=1, center=(0, 0, 0.2))
    asset = add(model, "asset")
    sky = dict(type="skybox", builtin="gradient", width=64, height=384)
    add(asset, "texture", **sky, rgb1=(0.80, 0.86, 0.92), rgb2=(0.42, 0.50, 0.60))
    for name, (colour, shine) in MATERIALS.items():
        add(asset, "material", name=name, rgba=(*colour, 1), specular=shine, reflectance=0)


def _room(world: ET.Element) -> None:
    light = dict(diffuse=(0.62, 0.60, 0.56), specular=(0.3, 0.3, 0.3))
    add(world, "light", type="directional", castshadow=False, dir=(-0.5, 0.45, -0.75), **light)
    _solid(world, (4, 4, 0.1), (0, 0, -0.8), material="floor")
    (x0, x1), (y0, y1) = TABLE
    middle, half = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    _solid(world, (*half, 0.02), (*middle, -0.02), material="table")
    for x in (x0 + 0.05, x1 - 0.05):
        for y in (y0 + 0.05, y1 - 0.05):
            _solid(world, (0.03, 0.03, 0.33), (x, y, -0.37), material="legs")
    _mat(world)
    _tray(world)


def _mat(world: ET.Element) -> None:
    """A ruled mat, so that a wrist camera sees where it goes. Lines: textures are dear on a CPU."""
    (x0, x1), (y0, y1) = MAT
    x, y, a, b = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    flat = dict(type="box", contype=0, conaffinity=0)
    add(world, "geom", **flat, size=(a, b, 0.0005), pos=(x, y, 0.0005), material="mat")
    thin, level, inner = 0.0015, 0.001, 0.97
    line = dict(flat, material="lines")
    for along in np.linspace(-inner, inner, 7):
        add(world, "geom", **line, size=(thin, b * inner, 3e-4), pos=(x + along * a, y, level))
        add(world, "geom", **line, size=(a * inner, thin, 3e-4), pos=(x, y + along * b, level))


def _tray(world: ET.Element) -> None:
    (x, y), (a, b), wall, height = TRAY_AT, TRAY_HALF, 0.005, 0.016
    _solid(world, (a, b, 0.003), (x, y, 0.003), material="tray")
    for side in (-1, 1):
        _solid(world, (wall, b, height), (x + side * a, y, height), material="tray")
        _solid(world, (a, wall, height), (x, y + side * b, height), material="tray")


def _arms(model: ET.Element, world: ET.Element, arms: list[list[Joint]]) -> list[ET.Element]:
    """Side by side, the first on the left. Their hands."""
    hands = []
    for index, joints in enumerate(arms):
        y = SPACING * ((len(arms) - 1) / 2 - index)
        base = add(world, "body", name=f"arm{index}", pos=(BASE_X, y, 0))
        accent = chain.ACCENTS[index % len(chain.ACCENTS)]
        hands.append(chain.build(model, base, joints, f"arm{index}", accent))
    return hands


def _blocks(world: ET.Element) -> None:
    half = BLOCK_SIZE / 2
    for name, colour in BLOCKS.items():
        block = add(world, "body", name=f"{name}_block", pos=(0, 0, half))
        add(block, "freejoint", name=f"{name}_block")
        _solid(block, (half, half, half), (0, 0, 0), mass=0.05, rgba=colour)


def _solid(body: ET.Element, size, pos, **more) -> None:
    """A box that hands and blocks can touch."""
    touch = dict(contype=2, conaffinity=3, friction=(1, 0.005, 0.0001))
    add(body, "geom", type="box", size=size, pos=pos, **touch, **more)
