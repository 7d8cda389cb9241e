# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""bench-control: step commands, linear interpolation and our stitchers on the same late, inconsistent chunks; with
--stream, how evenly the streamer's commands arrive beside a timer in an rclpy node."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pi_vla_ros.motion_bench.chunks import ChunksError, Latency
from pi_vla_ros.motion_bench.compare import Question, compare, improvement, violations
from pi_vla_ros.motion_bench.methods import KINDS, METHODS, OURS
from pi_vla_ros.motion_bench.recorded import Recorded
from pi_vla_ros.robot import RobotConfig, load_robot
from pi_vla_ros.schema import ConfigError

RATE = 480.0  # Hz of the commands that are compared
WIDTH = 140  # characters
RATES = (100.0, 240.0, 480.0, 1000.0)  # Hz of the stream


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    if args.stream:
        return _stream(args)
    try:
        robot = load_robot(args.robot)
        _only_positions(robot)
        count = min(args.chunks, Recorded(args.bag, robot).count) if args.bag else args.chunks
        lead = args.tau if args.lead is None else args.lead
        question = Question(robot, count, args.bag, Latency(args.latency, args.jitter), args.seed, args.tau, lead, RATE)
        with _progress() as progress:
            task = progress.add_task("bench-control", total=count * len(args.methods))
            found = compare(question, args.methods, args.jobs, lambda done: progress.update(task, completed=done))
    except (ConfigError, ChunksError) as error:
        sys.exit(f"bench-control: {error}")
    rows = {name: row for name, (row, _) in found.items()}
    asked = {
        "robot": robot.name,
        "chunks": count,
        "bag": str(args.bag) if args.bag else None,
        "latency_s": None if args.bag else {"median": args.latency, "log_spread": args.jitter},
        "seed": args.seed,
        "tau_s": args.tau,
        "lead_s": lead,
        "rate_hz": RATE,
    }
    _write(args.json, _where(args) | asked | {"methods": rows, "improvement": improvement(rows)})
    if args.plot:
        from pi_vla_ros.motion_bench.picture import motion

        motion({name: excerpt for name, (_, excerpt) in found.items()}, rows, args.plot)
    _console().print(_table(rows))
    beyond = sum(violations(row) for name, row in rows.items() if name in OURS)
    print(f"limit violations of ours: {beyond}")
    return 1 if beyond else 0


def _stream(args: argparse.Namespace) -> int:
    try:
        from pi_vla_ros.ros.stream_timing import PUBLISHERS, Case, TimingError, measure
    except ImportError as error:
        sys.exit(f"bench-control: --stream needs ROS 2 and this package's messages ({error}): source its setup first")
    cases = [Case(p, hz, loaded) for loaded in (False, True) for hz in args.rates for p in PUBLISHERS]
    rows = []
    with _progress() as progress:
        task = progress.add_task("bench-control --stream", total=len(cases))
        for case in cases:
            try:
                row = measure(case, args.seconds)
            except TimingError as error:
                sys.exit(f"bench-control: {error}")
            rows.append({"publisher": case.publisher, "hz": case.hz, "loaded": case.loaded, **row})
            progress.advance(task)
    _write(args.json, _where(args) | {"seconds": args.seconds, "rows": rows})
    if args.plot:
        from pi_vla_ros.motion_bench.picture import stream

        stream(rows, args.plot)
    _console().print(_stream_table(rows))
    return 0


def _only_positions(robot: RobotConfig) -> None:
    speeds = [j.name for j in robot.joints if j.action.kind == "velocity"]
    if speeds:
        raise ConfigError(
            f"robot '{robot.name}': actions of {', '.join(speeds)} are velocities: no steps to compare with"
        )


def _table(rows: dict[str, dict]) -> Table:
    lines = [
        ("step at joins, rad", lambda r: r["joins"]["position_step"]),
        ("  of velocity, per s", lambda r: r["joins"]["velocity_step"]),
        ("  of acceleration, per s²", lambda r: r["joins"]["acceleration_step"]),
        ("command's RMS jerk, per s³", lambda r: r["commands"]["jerk_rms"]),
        ("  max", lambda r: r["commands"]["jerk_max"]),
        ("arm's RMS jerk, per s³", lambda r: r["arm"]["jerk_rms"]),
        ("  max", lambda r: r["arm"]["jerk_max"]),
        ("arm's RMS error, rad", lambda r: r["arm"]["tracking_error_rms"]),
        ("  max", lambda r: r["arm"]["tracking_error_max"]),
        ("commands beyond limits", lambda r: sum(r["commands_beyond_limits"].values())),
        ("plans beyond limits", lambda r: sum(r["plans_beyond_limits"].values()) if "clipped" in r else "-"),
        *((f"clipped: {kind}", lambda r, kind=kind: _clips(r, kind)) for kind in KINDS),
        ("joins", lambda r: r["joins"]["count"]),
    ]
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for name in rows:
        table.add_column(name.replace("_", " "), justify="right")
    for name, value in lines:
        table.add_row(name, *(_number(value(row)) for row in rows.values()))
    return table


def _clips(row: dict, kind: str):
    return row["clipped"][kind]["count"] if "clipped" in row else "-"


def _number(value) -> str:
    """None: without bound."""
    if value is None:
        return "∞"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.2g}" if value < 1e-3 else f"{value:.3g}"
    return str(value)


def _console() -> Console:
    """What is piped to a file is as wide as the table."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _stream_table(rows: list[dict]) -> Table:
    table = Table(box=SIMPLE, title="ms between two commands, where they arrive (where they are computed)")
    table.caption = "stolen: share of time in which a hypervisor gave these cores to other machines"
    for name in ("", "Hz", "by", "% of ticks", "p50", "p99", "p99.9", "max", "stolen"):
        table.add_column(name, justify="left" if name in ("", "by") else "right")
    for row in rows:
        arrived, computed = row["arrived_ms"], row["computed_ms"]
        table.add_row(
            "load" if row["loaded"] else "idle",
            f"{row['hz']:g}",
            row["publisher"],
            f"{100 * row['share_of_ticks']:.2f}",
            *(f"{arrived[p]:.2f} ({computed[p]:.2f})" for p in ("p50", "p99", "p99.9", "max")),
            "-" if row["stolen"] is None else f"{100 * row['stolen']:.1f} %",
        )
    return table


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _where(args: argparse.Namespace) -> dict:
    return {
        "command": "bench-control " + " ".join(args.given),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _write(path: Path | None, result: dict) -> None:
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-control", description=__doc__)
    parser.add_argument("--robot", default="aloha", help="name or YAML: joints, limits, rates (default aloha)")
    parser.add_argument("--chunks", type=int, default=1000, help="number of chunks (default 1000)")
    parser.add_argument("--chunks-from", dest="bag", type=Path, metavar="BAG", help="take the chunks from a bag")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)} (default all)")
    parser.add_argument("--tau", type=float, default=0.05, help="time constant of the actuator, s (default 0.05)")
    parser.add_argument("--lead", type=float, help="s that commands run ahead of the policy's time (default: tau)")
    parser.add_argument("--latency", type=float, default=0.06, help="median delay of a chunk, s (default 0.06)")
    parser.add_argument("--jitter", type=float, default=0.35, help="spread of the delay's logarithm (default 0.35)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--stream", action="store_true", help="measure the timing of the commands instead; needs ROS 2")
    parser.add_argument("--rates", default=",".join(f"{r:g}" for r in RATES), help="--stream: Hz (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="--stream: of each run (default 20)")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--plot", type=Path, help="write a PNG")
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = parser.parse_args(given)
    args.given = given
    if args.chunks < 60 or args.tau <= 0 or args.latency <= 0 or args.jitter < 0 or args.jobs < 1:
        parser.error("--chunks must be at least 60, --tau, --latency and --jobs positive, --jitter not negative")
    args.methods = args.methods.split(",")
    unknown = [m for m in args.methods if m not in METHODS]
    if unknown:
        parser.error(f"--methods: {', '.join(unknown)}: not known; known: {', '.join(METHODS)}")
    try:
        args.rates = [float(rate) for rate in args.rates.split(",")]
    except ValueError:
        parser.error(f"--rates: numbers with commas between, not '{args.rates}'")
    if min(args.rates) <= 0 or max(args.rates) > 1000 or args.seconds < 1:
        parser.error("--rates must lie within 0 and 1000 Hz, --seconds be at least 1")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
