# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a robot is to the policy: one YAML file per robot, read into `RobotConfig`.

Units: rad or m, s, Hz. Clock: ROS time. The files live in `config/robots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pi_vla_ros.resources import config_folders
from pi_vla_ros.schema import ConfigError, parse, read_yaml, setting
from pi_vla_ros.urdf import with_urdf_limits

AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")  # of a twist
TURN = (-math.pi, math.pi)  # rad: the range of a joint that turns without end; no limit
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


@dataclass(frozen=True)
class Camera:
    """One camera: where its frames come from."""

    topic: str = setting(doc="image topic, relative to the node's namespace or absolute")
    transport: Literal["raw", "compressed"] = setting(
        "raw", doc="raw: sensor_msgs/Image; compressed: sensor_msgs/CompressedImage (JPEG, PNG)"
    )


@dataclass(frozen=True)
class State:
    """How the policy's state is made from a joint's position: scale * position + offset."""

    scale: float = setting(1.0, doc="policy units per robot unit")
    offset: float = setting(0.0, doc="policy units, added after scaling")
    kind: Literal["linear", "aloha_gripper"] = setting(
        "linear", doc="aloha_gripper: finger opening 0..1 to the motor angle that openpi's ALOHA policies saw, first"
    )


@dataclass(frozen=True)
class Action:
    """What one action dimension means on the robot: target = scale * action + offset."""

    kind: Literal["position", "velocity"] = setting(
        "position", doc="position: target in rad or m; velocity: rad/s or m/s, integrated under the limits"
    )
    scale: float = setting(1.0, doc="robot units per policy unit")
    offset: float = setting(0.0, doc="robot units, added after scaling")


@dataclass(frozen=True)
class Joint:
    """One entry of the policy's action vector, and where nothing else is said of its state vector: a joint, or an axis
    of the end effector's twist. An axis is a joint without position: what is published is the velocity of its plan."""

    name: str = setting(doc="name in joint_states and in the controller; of an axis, any")
    velocity: float = setting(doc="highest speed", unit="rad/s or m/s", above=0.0)
    acceleration: float = setting(doc="highest acceleration", unit="rad/s² or m/s²", above=0.0)
    position: tuple[float, float] | None = setting(
        None,
        doc="lowest and highest position; not for an axis, and not needed if continuous. Position "
        "and velocity may come from the URDF; the narrower applies",
        unit="rad or m",
    )
    jerk: float | None = setting(
        None,
        doc="highest rate of change of the acceleration; none: it may change within one knot",
        unit="rad/s³ or m/s³",
        above=0.0,
    )
    axis: Literal["linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z"] | None = setting(
        None, doc="no joint, but this axis of the end effector's `twist`; m/s or rad/s"
    )
    role: Literal["arm", "gripper"] = setting("arm", doc="a gripper ends an arm in the simulated robot")
    interpolation: Literal["cubic", "quintic", "monotone", "linear", "hold"] = setting(
        "cubic",
        doc="between two actions: cubic or quintic spline; monotone: without overshoot (grippers); linear; hold",
    )
    continuous: bool = setting(False, doc="turns without end: position limits do not count, the shorter way is taken")
    tracking: float | None = setting(
        None,
        doc="stop when the measured position is off the commanded one by more than this",
        unit="rad or m",
        above=0.0,
    )
    home: float | None = setting(None, doc="where the simulated robot starts; default the middle", unit="rad or m")
    in_urdf: bool = setting(True, doc="false: the URDF, if one is given, does not have this joint, or in other units")
    state: State = field(default_factory=State)
    action: Action = field(default_factory=Action)

    def __post_init__(self):
        if self.axis:
            self._check_axis()
            object.__setattr__(self, "continuous", True)
        if self.position is None and self.continuous:
            object.__setattr__(self, "position", TURN)
        if self.position is None:
            raise ConfigError(
                f"position of '{self.name}': is missing: lowest and highest [rad or m]; give it here or in a URDF"
            )
        low, high = self.position
        if not low < high:
            raise ConfigError(f"position of '{self.name}': lowest must be below highest, is [{low}, {high}]")
        if self.home is not None and not low <= self.home <= high:
            raise ConfigError(f"home of '{self.name}': {self.home} is outside position [{low}, {high}]")
        if self.state.scale == 0 or self.action.scale == 0:
            raise ConfigError(f"scale of '{self.name}': must not be 0")
        way, room = self.velocity * self.stopping_time / 2, high - low
        if way > room and not self.continuous:
            raise ConfigError(
                f"velocity of '{self.name}': braking from {self.velocity} takes {way:.3g} (acceleration "
                f"{self.acceleration}, jerk {self.jerk or 'free'}), more than its range of {room:.3g}: lower velocity "
                "or raise acceleration"
            )

    def _check_axis(self) -> None:
        given = [key for key in ("position", "home", "tracking") if getattr(self, key) is not None]
        if given:
            raise ConfigError(f"{given[0]} of '{self.name}': an axis of the twist has none; remove it")
        if self.action.kind != "velocity":
            raise ConfigError(f"action.kind of '{self.name}': an axis of the twist needs 'velocity'")

    @property
    def stopping_time(self) -> float:
        """s from full speed to rest; a limited jerk needs time to build the deceleration up and down."""
        return self.velocity / self.acceleration + (2 * self.acceleration / self.jerk if self.jerk else 0.0)


@dataclass(frozen=True)
class Observed:
    """One entry of the policy's state vector, where that is not made of `joints`."""

    name: str = setting(doc="name in joint_states")
    state: State = field(default_factory=State)


@dataclass(frozen=True)
class Twist:
    """Where the axes among `joints` go: geometry_msgs/TwistStamped, as MoveIt Servo takes it."""

    frame: str = setting(doc="frame that the twist is given in")
    topic: str = setting("servo_node/delta_twist_cmds", doc="relative to the node's namespace or absolute")


@dataclass(frozen=True)
class Timing:
    """How often, how synchronous, how old."""

    inference_hz: float = setting(30.0, doc="ticks at which an observation is taken", unit="Hz", above=0, most=1000)
    action_hz: float = setting(30.0, doc="rate of the demonstrations: 1 / time between actions", unit="Hz", above=0)
    max_skew: float = setting(0.04, doc="images of one set may differ by this much", unit="s", above=0)
    max_age: float = setting(0.2, doc="an image set older than this is not used", unit="s", above=0)
    timeout: float = setting(0.8, doc="the arm is at rest this long after the last observation", unit="s", above=0)


@dataclass(frozen=True)
class Motion:
    """How chunks become motion."""

    plan_hz: float = setting(120.0, doc="knots of a trajectory (points of joint_trajectory)", unit="Hz", above=0)
    stitcher: Literal["blend", "temporal_ensemble", "rtc", "rtc_trained", "hold_and_replace"] = setting(
        "blend",
        doc="blend: hand over within a window; temporal_ensemble: the weighted mean of what the last chunks say; rtc: "
        "the model, too, agrees with the chunk before (real-time chunking, guided); rtc_trained: the same, for "
        "checkpoints trained for it; hold_and_replace: at once, under the limits (for comparison)",
    )
    ensemble_decay: float = setting(
        0.1, doc="temporal_ensemble: a chunk weighs exp(-decay) of the one before it; 0: all the same", least=0
    )
    rtc_schedule: Literal["zeros", "ones", "linear", "exp"] = setting(
        "linear", doc="how the hold on the chunk before fades between the delay and rtc_horizon"
    )
    rtc_horizon: int = setting(10, doc="actions of a chunk that the one before has a say in", unit="actions", least=1)
    rtc_max_guidance: float = setting(
        10.0, doc="rtc: how strongly a flow step may be pulled towards the chunk before, at most", least=0
    )
    rtc_delay_percentile: float = setting(
        100.0,
        doc="rtc, rtc_trained: which percentile of the delays measured last is expected of the next chunk; 100: the "
        "longest",
        unit="%",
        least=0,
        most=100,
    )
    blend: float = setting(0.2, doc="window in which a new chunk is joined to the current motion", unit="s", above=0)
    start_ramp: float = setting(1.5, doc="the same, when starting from rest", unit="s", above=0)
    lead: float = setting(
        0.0, doc="lag of the controller: a command is what the policy wants this much later", unit="s"
    )
    tracking_time: float = setting(
        0.3, doc="how long a joint may be off by more than its 'tracking'", unit="s", above=0
    )
    margin: float = setting(0.03, doc="a new chunk takes over this long after it is planned", unit="s", least=0)


@dataclass(frozen=True)
class Output:
    """What the controller is given."""

    mode: Literal["trajectory", "stream", "both"] = setting(
        "trajectory",
        doc="trajectory: dense JointTrajectory on joint_trajectory; stream: one `message` per command on commands",
    )
    message: Literal["float64_multi_array", "joint_trajectory_point", "joint_trajectory"] = setting(
        "float64_multi_array",
        doc="of the stream. float64_multi_array: positions; joint_trajectory_point: positions and velocities, one "
        "period ahead; joint_trajectory: positions, as a trajectory of one point that is due at once",
    )
    command_hz: float = setting(480.0, doc="rate of the stream", unit="Hz", least=50, most=1000)
    cpu: int | None = setting(None, doc="core that the streamer runs on; none: any", least=0)


@dataclass(frozen=True)
class Replay:
    """What a recording's demonstration commanded; predictions are compared with it."""

    commands: Literal["auto", "joint_trajectory", "commands", "joint_states"] = setting(
        "auto",
        doc="auto: joint_trajectory or commands, whichever the recording has; joint_states: measured, shifted",
    )
    topic: str = setting("", doc="topic of joint_trajectory or commands where it was remapped")
    shift: float = setting(0.1, doc="joint_states: the arm is this much behind its commands", unit="s", least=0, most=5)


@dataclass(frozen=True)
class RobotConfig:
    """A robot as the policy sees it. `joints` gives the order of state and action vectors."""

    name: str = setting(doc="name of the robot")
    cameras: Mapping[str, Camera] = setting(doc="slot -> camera; slots not listed are masked")
    joints: tuple[Joint, ...] = setting(doc="joints in the order of the policy's action, and of its state")
    observed: tuple[Observed, ...] = setting((), doc="joints in the order of the policy's state, where it is another")
    twist: Twist | None = None
    description: str = setting("", doc="one sentence")
    urdf: str = setting("", doc="file with the joints' limits, relative to this one; parameter robot_description wins")
    prompt: str = setting("", doc="task when none is given")
    timing: Timing = field(default_factory=Timing)
    motion: Motion = field(default_factory=Motion)
    output: Output = field(default_factory=Output)
    replay: Replay = field(default_factory=Replay)

    def __post_init__(self):
        if not self.cameras:
            raise ConfigError(f"cameras: at least one is needed; usual slots: {', '.join(SLOTS)}")
        if not self.joints:
            raise ConfigError("joints: at least one is needed")
        for key, names in (("joints", self.joint_names), ("observed", [o.name for o in self.observed])):
            if twice := _twice(names):
                raise ConfigError(f"{key}: named twice: {', '.join(twice)}")
        unread = [j.name for j in self.joints if j.state != State()]
        if self.observed and unread:
            raise ConfigError(
                f"joints: state of {', '.join(unread)}: the policy's state is made of observed; move it there"
            )
        self._check_twist()
        slowest = max(self.joints, key=lambda j: j.stopping_time)
        stop, age = slowest.stopping_time, self.timing.max_age
        if self.timing.timeout <= age + stop:
            raise ConfigError(
                f"timing.timeout: {self.timing.timeout} s leaves no time to stop: '{slowest.name}' needs {stop:.2f} s "
                f"to brake (velocity {slowest.velocity}, acceleration {slowest.acceleration}, jerk "
                f"{slowest.jerk or 'free'}) and observations may be {age} s old; allowed: more than {age + stop:.2f} s"
            )

    def _check_twist(self) -> None:
        axes = [j.axis for j in self.joints if j.axis]
        if twice := _twice(axes):
            raise ConfigError(f"joints: axis given twice: {', '.join(twice)}")
        if axes and self.twist is None:
            raise ConfigError(f"twist: is missing: {', '.join(axes)} of joints need its frame and topic")
        if self.twist and not axes:
            raise ConfigError(f"twist: no entry of joints has an axis; allowed: {', '.join(AXES)}")
        if axes and self.output.mode != "stream":
            raise ConfigError(f"output.mode: is '{self.output.mode}'; a robot with a twist needs 'stream'")

    @property
    def joint_names(self) -> list[str]:
        """Entries of the action vector: joints, and axes of the twist."""
        return [j.name for j in self.joints]

    @property
    def state_entries(self) -> tuple[Joint | Observed, ...]:
        """Entries of the policy's state vector."""
        return self.observed or tuple(j for j in self.joints if not j.axis)

    @property
    def measured_names(self) -> list[str]:
        """What joint_states has to have: the policy's state, then what is commanded beside it."""
        seen = [entry.name for entry in self.state_entries]
        return seen + [j.name for j in self.joints if not j.axis and j.name not in seen]

    def positions(self, measured: np.ndarray) -> np.ndarray:
        """(measured_names,) -> (joints,) rad or m; an axis, which has no position, is at 0."""
        value = dict(zip(self.measured_names, measured, strict=True))
        return np.array([0.0 if j.axis else value[j.name] for j in self.joints])

    def measured(self, positions: np.ndarray) -> np.ndarray:
        """(joints,) -> (measured_names,) rad or m; a joint that is only observed is at 0."""
        value = dict(zip(self.joint_names, positions, strict=True))
        return np.array([value.get(name, 0.0) for name in self.measured_names])

    @property
    def home(self) -> np.ndarray:
        """(joints,) rad or m: where the simulated robot starts."""
        return np.array([sum(j.position) / 2 if j.home is None else j.home for j in self.joints])

    @property
    def streams(self) -> bool:
        return self.output.mode in ("stream", "both")

    @property
    def sends_trajectories(self) -> bool:
        return self.output.mode in ("trajectory", "both")


def load_robot(robot: str | Path, robot_description: str = "") -> RobotConfig:
    """Read a robot: a name known to the package ('aloha') or the path of a YAML file.

    robot_description: a URDF, its XML or its path, that limits the joints too; instead of the file's own `urdf`.
    Raises ConfigError naming the file, the key and what is allowed.
    """
    path = robot_file(robot)
    return parse(RobotConfig, with_urdf_limits(read_yaml(path), path, robot_description), str(path))


def robot_file(robot: str | Path) -> Path:
    """The YAML file of a robot given by name or path. Raises ConfigError when the name is not known."""
    path = Path(robot)
    return path if path.suffix in (".yaml", ".yml") else _find(str(robot))


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def robot_names() -> list[str]:
    """Names that `load_robot` knows."""
    return sorted({p.stem for folder in config_folders() for p in (folder / "robots").glob("*.yaml")})


def _find(name: str) -> Path:
    for folder in config_folders():
        path = folder / "robots" / f"{name}.yaml"
        if path.is_file():
            return path
    raise ConfigError(f"robot: '{name}' is not known; known: {', '.join(robot_names())}, or give the path of a .yaml")
