# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`record`: the `ros2 bag record` line for a robot, printed or run, so that a replay finds all that it needs."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pi_vla_ros.replay.recording import qos_overrides, record_command
from pi_vla_ros.robot import load_robot, robot_names
from pi_vla_ros.ros.dds import shared_memory_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """0: printed; with --run, what `ros2 bag record` returns; 2: cannot."""
    parser = argparse.ArgumentParser(prog="record", description=__doc__)
    parser.add_argument("--robot", required=True, help=f"{', '.join(robot_names())}, or the path of a YAML")
    parser.add_argument(
        "--out", default=f"episode-{time.strftime('%Y%m%d-%H%M%S')}", help="folder of the bag; must not exist"
    )
    parser.add_argument("--namespace", default="", help="of the robot's relative topics")
    parser.add_argument("--run", action="store_true", help="record now; Ctrl-C ends the bag")
    args = parser.parse_args(arguments)
    out = Path(args.out)
    qos = out.with_name(f"{out.name}-qos.yaml")
    try:
        robot = load_robot(args.robot)
        if out.exists():
            raise ValueError(f"{out}: exists already; ros2 bag writes into a new folder only")
        qos.parent.mkdir(parents=True, exist_ok=True)
        qos.write_text(qos_overrides(robot, args.namespace), encoding="utf-8")
    except ValueError as error:
        parser.exit(2, f"record: {error}\n")
    except OSError as error:
        parser.exit(2, f"record: {error.filename}: {error.strerror}\n")
    command = record_command(robot, out, qos, os.environ.get("ROS_DISTRO", ""), args.namespace)
    environment = shared_memory_profile(dict(os.environ))
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(shlex.join(command), flush=True)
    if args.run:
        if not shutil.which("ros2"):
            parser.exit(2, "record: ros2 is not there: source your ROS 2 first (ros-$ROS_DISTRO-ros2bag)\n")
        os.execvpe(command[0], command, os.environ | environment)  # Ctrl-C must reach it, and only it
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
