# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""bench-control: step commands, linear interpolation and our stitchers on the same late, inconsistent chunks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pi_vla_ros.control.quality import METHODS, arrivals, commands, demonstration, judge
from pi_vla_ros.robot import load_robot
from pi_vla_ros.schema import ConfigError

RATE = 480.0  # Hz of the commands that are compared


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    try:
        robot = load_robot(args.robot)
    except ConfigError as error:
        sys.exit(f"bench-control: {error}")
    arrived, truth = arrivals(robot, args.chunks, args.seed), demonstration(robot, args.seed)
    rows = {}
    for method in track(METHODS, "bench-control", console=Console(stderr=True)):
        times, positions, beyond = commands(method, robot, arrived, RATE)
        rows[method] = judge(times, positions, truth(times), args.tau) | {"limit_violations": beyond}
    asked = {"robot": robot.name, "chunks": args.chunks, "tau_s": args.tau, "seed": args.seed, "rate_hz": RATE}
    if args.json:
        args.json.write_text(json.dumps(asked | {"methods": rows}, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        from pi_vla_ros.replay.plots import bars

        bars(rows, args.plot)
    Console().print(_table(rows))
    return 1 if rows["blend"]["limit_violations"] else 0


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table("", *rows)
    for name in next(iter(rows.values())):
        table.add_row(name.replace("_", " "), *(f"{row[name]:.4g}" for row in rows.values()))
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-control", description=__doc__)
    parser.add_argument("--robot", default="aloha", help="name or YAML: joints, limits, rates (default aloha)")
    parser.add_argument("--chunks", type=int, default=1000, help="number of chunks (default 1000)")
    parser.add_argument("--tau", type=float, default=0.05, help="time constant of the actuator, s (default 0.05)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--plot", type=Path, help="write a PNG")
    args = parser.parse_args(arguments)
    if args.chunks < 60 or args.tau <= 0:
        parser.error("--chunks must be at least 60 and --tau positive")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
