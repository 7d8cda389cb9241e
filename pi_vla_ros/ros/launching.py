# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The launch descriptions, shared by the files in launch/. Needs ROS 2's launch and launch_ros."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from ament_index_python.packages import get_package_prefix
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from pi_vla_ros.replay.untracked import without_tracking
from pi_vla_ros.robot import load_robot
from pi_vla_ros.ros.dds import shared_memory_profile

SIMULATED = "sim"

_COMMON = (
    ("robot", SIMULATED, "robot: a name known to the package (sim, aloha, droid, ur5e, so101) or the path of a YAML"),
    ("robot_description", "", "URDF that limits the joints too, its XML or its path; empty: the robot file's"),
    ("checkpoint", "", "folder of the checkpoint; robot:=sim may do without: random weights"),
    ("prompt", "", "the task, one sentence; empty: the robot file's, or wait for ~/prompt"),
    ("tokenizer", "", "tokenizer file or folder, where the checkpoint has none (openpi's have not)"),
    ("namespace", "", "namespace of the node and of its relative topics"),
    ("params_file", "", "YAML file with parameters of the node; wins over the arguments"),
    ("use_sim_time", "false", "take the time from /clock"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    ("autostart", "true", "configure and activate by itself; false: wait for `ros2 lifecycle set`"),
)


def policy_launch(model: str) -> LaunchDescription:
    """The policy node alone, for a robot that is there."""
    return LaunchDescription([*_arguments(), *_environment(), OpaqueFunction(function=_policy_node, args=[model])])


def demo_launch() -> LaunchDescription:
    """The simulated robot and the policy node, until Ctrl-C."""
    model = DeclareLaunchArgument("model", default_value="pi05", choices=["pi05", "pi0"], description="random model")
    return LaunchDescription(
        [
            *_arguments(),
            model,
            # the demo publishes joint_trajectory: no real robot on the network may hear it
            SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
            *_environment(),
            Node(
                package="pi_vla_ros",
                executable="sim_robot",
                name="sim_robot",
                namespace=LaunchConfiguration("namespace"),
                parameters=[{name: _text(name) for name in ("robot", "robot_description")}],
                arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
                output="screen",
            ),
            OpaqueFunction(function=lambda c: _policy_node(c, LaunchConfiguration("model").perform(c), simulated=True)),
        ]
    )


def _arguments() -> list[DeclareLaunchArgument]:
    return [DeclareLaunchArgument(name, default_value=value, description=words) for name, value, words in _COMMON]


def _environment() -> list[SetEnvironmentVariable]:
    """The DDS profile for camera images, unless the user chose one."""
    return [SetEnvironmentVariable(name, value) for name, value in shared_memory_profile(dict(os.environ)).items()]


def _policy_node(context: LaunchContext, model: str, simulated: bool = False) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in _COMMON}
    actions, checkpoint, calm = [], given["checkpoint"], {}
    if not checkpoint and (simulated or given["robot"] == SIMULATED):
        checkpoint = str(_random_checkpoint(model, given["robot"]))
        calm = {"noise_scale": 0.0, "cpu_threads": 1, "num_inference_steps": 4}
        actions.append(
            LogInfo(msg=f"no checkpoint given: a tiny {model} with random weights. It moves; it knows no task")
        )
    parameters = [
        {
            "robot": _text("robot"),
            "robot_description": _text("robot_description"),
            "checkpoint": ParameterValue(checkpoint, value_type=str),
            "prompt": _text("prompt"),
            "tokenizer": _text("tokenizer"),
            "model": model,
            "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
            **calm,
        }
    ]
    if given["params_file"]:
        parameters.append(given["params_file"])
    node = LifecycleNode(
        package="pi_vla_ros",
        executable="policy_node",
        name="pi_vla_ros",
        namespace=LaunchConfiguration("namespace"),
        parameters=parameters,
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return [*actions, node]


def _text(name: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def _random_checkpoint(model: str, robot: str) -> Path:
    """Made by the package's own program: the Python that runs `ros2 launch` need not have PyTorch."""
    folder = Path(tempfile.mkdtemp(prefix="pi_vla_ros-")) / f"tiny_{model}"
    program = Path(get_package_prefix("pi_vla_ros")) / "lib" / "pi_vla_ros" / "make-checkpoint"
    subprocess.run([program, folder, "--model", model, "--robot", robot], check=True, stdout=subprocess.DEVNULL)
    return folder


_REPLAY = (
    ("bag", "", "the recording: a bag folder, .mcap or .db3"),
    ("rate", "1.0", "1: as recorded; 2: twice as fast"),
    ("start", "0.0", "s from the beginning of the recording"),
    ("duration", "0.0", "s; 0: to its end"),
    ("loops", "1", "how often it is played; the clock jumps back each time. 0: until Ctrl-C"),
    ("play", "true", "false: leave the playing to `ros2 bag play`; its line is told"),
    ("report", "", "how the node did: a file .html (and .json beside it) or .json alone; empty: none"),
)


def replay_launch() -> LaunchDescription:
    """The policy node as it runs on the robot, under a recording that is played with /clock; ends with it."""
    common = [a for a in _arguments() if a.name != "use_sim_time"]
    more = [DeclareLaunchArgument(name, default_value=value, description=words) for name, value, words in _REPLAY]
    more.append(
        DeclareLaunchArgument("use_sim_time", default_value="true", description="take the time from the recording")
    )
    return LaunchDescription(
        [
            *common,
            *more,
            # cameras and joint states of the recording, and the node's commands: nobody else may take them for real
            SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
            SetRemap("joint_trajectory", "replay/joint_trajectory"),
            SetRemap("commands", "replay/commands"),
            *_environment(),
            OpaqueFunction(function=_under_a_recording),
        ]
    )


def _under_a_recording(context: LaunchContext) -> list:
    robot, urdf, bag = (LaunchConfiguration(n).perform(context) for n in ("robot", "robot_description", "bag"))
    if not bag:
        raise RuntimeError("replay.launch.py: bag:= is missing: the recording to play")
    player = Node(
        package="pi_vla_ros",
        executable="bag_player",
        name="bag_player",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "robot": _text("robot"),
                "robot_description": _text("robot_description"),
                "bag": _text("bag"),
                "report": _text("report"),
                "loops": ParameterValue(LaunchConfiguration("loops"), value_type=int),
                "play": ParameterValue(LaunchConfiguration("play"), value_type=bool),
                **{n: ParameterValue(LaunchConfiguration(n), value_type=float) for n in ("rate", "start", "duration")},
            }
        ],
        output="screen",
        on_exit=Shutdown(reason="the recording ended"),
    )
    model = "any" if LaunchConfiguration("checkpoint").perform(context) else "pi05"
    twist = load_robot(robot, urdf).twist
    aside = [SetRemap(twist.topic, "replay/twist")] if twist else []
    context.launch_configurations["robot"] = str(without_tracking(robot))
    return [*aside, *_policy_node(context, model, simulated=robot == SIMULATED), player]
