# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared once, with meaning and range, and read into one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from pi_vla_ros.policy import PolicyOptions


@dataclass(frozen=True)
class NodeParameters:
    """robot: name or YAML path; robot_description: URDF, its XML or path, or empty; checkpoint: folder."""

    robot: str
    robot_description: str
    checkpoint: str
    policy: PolicyOptions


def declare_parameters(node: Node) -> None:
    """All but `prompt` are fixed at start: another value means another node."""
    for name, default, words, extra in (
        ("robot", "sim", "robot: a name known to the package, or the path of a YAML file", {}),
        ("robot_description", "", "URDF that limits the joints too, its XML or its path; empty: the robot file's", {}),
        ("checkpoint", "", "folder of the checkpoint (LeRobot format)", {}),
        ("model", "any", "what the checkpoint must be: pi05, pi0 or any", {}),
        ("target", "auto", "where the model runs: auto, cuda or cpu", {}),
        ("precision", "auto", "of the weights: auto, fp32, bf16, or fp8 (GPU only)", {}),
        ("cpu_threads", 0, "threads of one operation on the CPU; 0 is PyTorch's choice", _whole(0, 256)),
        ("num_inference_steps", 0, "flow steps; 0 takes the checkpoint's", _whole(0, 50)),
        ("noise_scale", 1.0, "1 samples as trained; less is calmer, 0 always the same answer", _real(0.0, 1.0)),
        ("noise_seed", -1, "every chunk starts from the noise of this seed; -1 draws anew", _whole(-1, 2**31)),
        ("tokenizer", "", "tokenizer file or folder, where the checkpoint has none", {}),
        ("resize", "", "how frames become the model's size: pil, fast, lerobot, lerobot04; empty: as trained", {}),
        ("autostart", False, "configure and activate by itself", {}),
    ):
        node.declare_parameter(name, default, ParameterDescriptor(description=words, read_only=True, **extra))
    words = "the task, one sentence; also the topic ~/prompt. Empty: the robot file's"
    node.declare_parameter("prompt", "", ParameterDescriptor(description=words))


def read_parameters(node: Node) -> NodeParameters:
    """Raises ValueError naming the parameter and what is allowed."""

    def value(name: str):
        return node.get_parameter(name).value

    for name, allowed in (
        ("model", ("any", "pi05", "pi0")),
        ("target", ("auto", "cuda", "cpu")),
        ("precision", ("auto", "fp32", "bf16", "fp8")),
    ):
        if value(name) not in allowed:
            raise ValueError(f"parameter {name}: is '{value(name)}'; allowed: {', '.join(allowed)}")
    if not value("checkpoint"):
        raise ValueError("parameter checkpoint: is empty; give the folder of a checkpoint (checkpoint:=/data/my_pi05)")
    seed = value("noise_seed")
    options = PolicyOptions(
        target=value("target"),
        precision=value("precision"),
        cpu_threads=value("cpu_threads"),
        steps=value("num_inference_steps") or None,
        noise_scale=value("noise_scale"),
        seed=None if seed < 0 else seed,
        tokenizer=value("tokenizer") or None,
        resize=value("resize") or None,
        model=value("model"),
    )
    return NodeParameters(value("robot"), value("robot_description"), value("checkpoint"), options)


def _whole(low: int, high: int) -> dict:
    return {"integer_range": [IntegerRange(from_value=low, to_value=high, step=0)]}


def _real(low: float, high: float) -> dict:
    return {"floating_point_range": [FloatingPointRange(from_value=low, to_value=high, step=0.0)]}
