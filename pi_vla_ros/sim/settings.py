# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The parameters of the simulated robot: what each means and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from pi_vla_ros.robot import RobotConfig, load_robot
from pi_vla_ros.schema import ConfigError
from pi_vla_ros.sim.faults import Fault, parse_faults

SLOWEST_PHYSICS = 500.0  # Hz
FOLLOW = ("auto", "trajectory", "commands")


@dataclass(frozen=True)
class Settings:
    """size: (width, height). camera_hz: slot -> Hz. follows: 'trajectory' or 'commands'."""

    robot: RobotConfig
    seed: int
    joint_state_hz: float
    camera_hz: Mapping[str, float]
    size: tuple[int, int]
    faults: list[Fault]
    follows: str
    report: str

    @property
    def step(self) -> float:
        """s of a physics step: a whole number of them make a cycle."""
        steps = math.ceil(SLOWEST_PHYSICS / self.joint_state_hz)
        return 1 / (self.joint_state_hz * steps)


def declare(node: Node) -> Settings:
    """Declare the parameters on `node` and read them. Raises ConfigError or FaultError."""

    def get(name, default, description, **limits):
        descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
        return node.declare_parameter(name, default, descriptor).value

    def real(low, high):
        return {"floating_point_range": [FloatingPointRange(from_value=low, to_value=high)]}

    def whole(low, high):
        return {"integer_range": [IntegerRange(from_value=low, to_value=high, step=1)]}

    robot = load_robot(
        get("robot", "sim", "robot: a known name or the path of a YAML file"),
        get("robot_description", "", "URDF that limits the joints too, its XML or its path"),
    )
    if robot.twist:
        raise ConfigError(f"robot '{robot.name}': the simulated robot has no servo for the twist of an end effector")
    rates = get(
        "camera_hz",
        [30.0, 25.0, 20.0],
        "Hz of each camera, in the order of the robot file; one for all",
    )
    follow = get(
        "follow",
        "auto",
        "what drives the arm: trajectory, commands, or auto: what output.mode says",
    )
    if follow not in FOLLOW:
        raise ConfigError(f"parameter follow: is '{follow}'; allowed: {', '.join(FOLLOW)}")
    return Settings(
        robot=robot,
        seed=get("seed", 0, "where the blocks lie, and the jitter of the cameras", **whole(0, 2**31 - 1)),
        joint_state_hz=get("joint_state_hz", 200.0, "Hz of joint_states", **real(1.0, 1000.0)),
        camera_hz=_rates(rates, list(robot.cameras)),
        size=(
            get("width", 256, "pixels of an image row", **whole(16, 1280)),
            get("height", 192, "pixels of an image column", **whole(16, 960)),
        ),
        faults=parse_faults(get("faults", "", "what goes wrong and when"), list(robot.cameras), robot.joint_names),
        follows={"auto": "trajectory" if robot.sends_trajectories else "commands"}.get(follow, follow),
        report=get("report", "", "file to write at the end (JSON); empty: none"),
    )


def _rates(rates, slots: list[str]) -> dict[str, float]:
    rates = list(rates)
    if len(rates) == 1:
        rates *= len(slots)
    if len(rates) < len(slots) or not all(0.1 <= hz <= 200 for hz in rates):
        raise ConfigError(
            f"parameter camera_hz: is {rates}; allowed: 0.1 to 200 Hz, one rate for all cameras or "
            f"one for each of {', '.join(slots)}"
        )
    return dict(zip(slots, rates, strict=False))
