# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`replay`: how far is a policy from recorded demonstrations, and how would the arm move? No ROS, no arm."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pi_vla_ros.checkpoint import load_checkpoint
from pi_vla_ros.replay.bags import find_bags
from pi_vla_ros.replay.lerobot import find_episodes
from pi_vla_ros.replay.question import Question
from pi_vla_ros.replay.run import replay
from pi_vla_ros.robot import RobotConfig, load_robot, robot_names


def main(arguments: Sequence[str] | None = None) -> int:
    """0: evaluated; 1: some recordings were left out; 2: nothing could be evaluated; 130: interrupted."""
    parser = _parser()
    args = parser.parse_args(arguments)
    console = Console()
    out = Path(args.out)
    try:
        robot = _with_commands(load_robot(args.robot), args)
        recordings = find_bags(map(Path, args.bag))
        if args.dataset:
            recordings += find_episodes(Path(args.dataset), args.episodes)
        if not recordings:
            raise ValueError("nothing to replay: give --bag or --dataset")
        question = _question(robot, args)
        load_checkpoint(args.checkpoint)  # described, not loaded: what is wrong is told before anything is written
        out.mkdir(parents=True, exist_ok=True)
        summary = replay(question, recordings, out, args.jobs, console, args.ray)
    except ValueError as error:
        parser.exit(2, f"replay: {error}\n")
    except OSError as error:
        where = error.filename or out
        parser.exit(2, f"replay: {where}: {error.strerror or error}; what is complete is kept, the rest removed\n")
    except KeyboardInterrupt:
        parser.exit(130, f"replay: interrupted; the same command goes on from here ({out})\n")
    for sentence in summary["verdict"]["sentences"]:
        console.print(("+ " if sentence["good"] else "! ") + sentence["text"], markup=False, highlight=False)
    console.print(summary["verdict"]["caveat"], style="bold", markup=False)
    console.print(f"results: {out / 'report.html'}", markup=False, soft_wrap=True)
    return 1 if summary["failed"] else 0


def _with_commands(robot: RobotConfig, args: argparse.Namespace) -> RobotConfig:
    """What the command line says about the demonstration's commands wins over the robot file."""
    given = {"commands": args.commands, "topic": args.commands_topic, "shift": args.shift}
    changes = {key: value for key, value in given.items() if value is not None}
    return dataclasses.replace(robot, replay=dataclasses.replace(robot.replay, **changes))


def _question(robot: RobotConfig, args: argparse.Namespace) -> Question:
    return Question(
        robot=robot,
        checkpoint=str(Path(args.checkpoint).resolve()),
        prompt=args.prompt,
        namespace=args.namespace,
        start=args.start,
        duration=args.duration,
        delay=args.delay,
        mcap=args.mcap,
        delays=() if args.no_delays else Question.delays,
        policy={
            "target": args.target,
            "cpu_threads": args.cpu_threads,
            "steps": args.steps,
            "noise_scale": args.noise_scale,
            "seed": args.seed,
        },
        cameras={name: slot for slot, name in args.camera},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="replay", description=__doc__)
    add = parser.add_argument
    add("--robot", required=True, help=f"{', '.join(robot_names())}, or the path of a YAML")
    add("--checkpoint", required=True, help="folder of the checkpoint")
    add("--bag", nargs="+", default=[], help="bags (folder, .mcap, .db3), or folders that hold bags")
    add("--dataset", help="folder of a LeRobot dataset (v2.x, v3.0); needs pyarrow, and PyAV for AV1 video")
    add("--episodes", type=int, nargs="+", help="of the dataset; default: all")
    add("--camera", type=_pair, action="append", default=[], metavar="SLOT=NAME", help="what the dataset calls a slot")
    add("--out", required=True, help="folder for the results; one that was interrupted goes on")
    add("--commands", choices=("joint_trajectory", "commands", "joint_states"), help="what the demonstration commanded")
    add("--commands-topic", help="topic of the commands where it was remapped")
    add("--shift", type=_not_negative, help="s: with --commands joint_states, how far the arm is behind its commands")
    add("--namespace", default="", help="of the robot's relative topics in the bag")
    add("--prompt", default="", help="the task; default: as recorded, else the robot file's")
    add("--start", type=_not_negative, default=0.0, help="s from the beginning of each bag (default 0)")
    add("--duration", type=_not_negative, default=0.0, help="s of each bag (default 0: to its end)")
    add("--delay", type=_not_negative, default=Question.delay, help="s that inference is taken to need (default 0.033)")
    add("--no-delays", action="store_true", help="do not also try delays of 0, 33, 66, 100 and 200 ms")
    add("--mcap", action="store_true", help="also write predictions as topics: bags/<recording>/predictions/*.mcap")
    add("--jobs", type=_count, default=1, help="processes, each with its own model (default 1)")
    add("--ray", action="store_true", help="one worker per GPU of a Ray cluster (without GPUs: --jobs); needs ray")
    add("--seed", type=int, default=0, help="of the noise that every chunk starts from (default 0)")
    add("--noise-scale", type=_not_negative, default=1.0, help="1: as trained; 0: always the same answer (default 1)")
    add("--steps", type=_count, help="flow steps; default: the checkpoint's")
    add("--target", choices=("auto", "cuda", "cpu"), default="auto", help="where the model runs (default auto)")
    add("--cpu-threads", type=_count, default=1, help="per process; another number rounds otherwise (default 1)")
    return parser


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite, is {text}")
    return value


def _pair(text: str) -> tuple[str, str]:
    slot, equals, name = text.partition("=")
    if not (slot and equals and name):
        raise argparse.ArgumentTypeError(f"must be SLOT=NAME, is {text}")
    return slot, name


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, is {text}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
