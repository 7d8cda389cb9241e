# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`demo`: a simulated robot and the policy node on real ROS 2, a live table and a report. No GPU, no checkpoint."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from pi_vla_ros.cli.make_checkpoint import make_checkpoint
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.robot import load_robot, robot_names
from pi_vla_ros.schema import ConfigError


def main() -> None:
    arguments = _arguments()
    console = Console()
    try:
        robot = load_robot(arguments.robot)
    except ConfigError as error:
        sys.exit(f"demo: {error}")
    try:
        from pi_vla_ros.sim.demo.run import Demo, run_demo
    except ImportError as error:
        sys.exit(f"demo: ROS 2 is not there ({error}). In the source tree: make demo; else source your ROS 2 first")
    folder = Path(arguments.out or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    folder.mkdir(parents=True)
    checkpoint = Path(arguments.checkpoint) if arguments.checkpoint else folder / "checkpoint"
    if not arguments.checkpoint:
        console.print(
            f"no checkpoint given: a tiny {arguments.model} with seeded random weights. It moves; it knows no task"
        )
        make_checkpoint(checkpoint, tiny(arguments.model), arguments.robot, seed=arguments.seed)
    demo = Demo(robot, arguments.robot, checkpoint, folder, arguments.duration, arguments.seed, arguments.faults)
    summary = run_demo(demo, console)
    console.print(f"results: {folder}")
    if summary["exit_reason"] != "finished":
        sys.exit(f"demo: {summary['exit_reason']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--duration", type=float, default=20.0, help="s (default 20)")
    parser.add_argument(
        "--robot", default="sim", help=f"{', '.join(robot_names())}, or the path of a YAML (default sim)"
    )
    parser.add_argument(
        "--model", choices=("pi05", "pi0"), default="pi05", help="of the random checkpoint (default pi05)"
    )
    parser.add_argument("--checkpoint", help="folder of a real checkpoint instead of a random one")
    parser.add_argument("--seed", type=int, default=0, help="of weights, blocks and noise (default 0)")
    parser.add_argument("--faults", default="", help="what goes wrong, e.g. drop:left_wrist_0_rgb:5-8")
    parser.add_argument("--out", help="folder for the results (default runs/demo-<time>)")
    arguments = parser.parse_args()
    if arguments.duration <= 0:
        parser.error("--duration must be positive")
    return arguments


if __name__ == "__main__":
    main()
