# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The launch files, where ROS's launch is installed: arguments, and what they start."""

import runpy

import pytest

pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not installed")

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode, Node
from launch_ros.utilities import evaluate_parameters

from launch import LaunchContext
from pi_vla_ros.resources import package_file

ARGUMENTS = {
    "robot", "robot_description", "checkpoint", "prompt", "namespace", "params_file", "use_sim_time", "log_level",
    "autostart",
}  # fmt: skip


def describe(name):
    return runpy.run_path(str(package_file(f"launch/{name}.launch.py")))["generate_launch_description"]()


def started(name, **given):
    """The nodes that a launch file starts with these arguments, and the context that they are evaluated in."""
    context, nodes = LaunchContext(), []
    for entity in describe(name).entities:
        if isinstance(entity, DeclareLaunchArgument) and entity.name in given:
            context.launch_configurations[entity.name] = given[entity.name]
        else:
            nodes += [e for e in entity.visit(context) or [] if isinstance(e, Node)] if isinstance(
                entity, (DeclareLaunchArgument, OpaqueFunction)
            ) else [entity] if isinstance(entity, Node) else []  # fmt: skip
    return nodes, context


def parameters(node, context) -> dict:
    found = {}
    for entry in evaluate_parameters(context, node._Node__parameters):
        if isinstance(entry, dict):
            found |= entry
    return found


@pytest.mark.parametrize("name", ["pi05", "pi0", "demo"])
def test_every_argument_is_there_and_described(name):
    arguments = [e for e in describe(name).entities if isinstance(e, DeclareLaunchArgument)]
    assert {a.name for a in arguments} >= ARGUMENTS
    assert all(len(a.description) > 10 for a in arguments)


@pytest.mark.parametrize("name", ["pi05", "pi0"])
def test_arguments_become_parameters(name, tmp_path):
    nodes, context = started(
        name, robot="aloha", robot_description="<robot/>", checkpoint=str(tmp_path), prompt="fold the towel",
        use_sim_time="true", autostart="false",
    )  # fmt: skip
    (node,) = nodes
    assert isinstance(node, LifecycleNode)
    found = parameters(node, context)
    assert found == {
        "robot": "aloha",
        "robot_description": "<robot/>",
        "checkpoint": str(tmp_path),
        "prompt": "fold the towel",
        "tokenizer": "",
        "model": name,
        "use_sim_time": True,
        "autostart": False,
    }


def test_robot_sim_without_a_checkpoint_gets_a_random_one():
    nodes, context = started("pi05", robot="sim")
    found = parameters(nodes[0], context)
    assert package_file("config/fastdds.xml")
    from pi_vla_ros.checkpoint import load_checkpoint

    assert load_checkpoint(found["checkpoint"]).geometry.model == "pi05"


def test_a_real_robot_without_a_checkpoint_gets_none():
    nodes, context = started("pi05", robot="aloha")
    assert parameters(nodes[0], context)["checkpoint"] == ""  # the node refuses to configure


def test_the_demo_starts_robot_and_policy():
    nodes, _ = started("demo")
    assert [n._Node__node_executable for n in nodes] == ["sim_robot", "policy_node"]
