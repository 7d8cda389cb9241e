# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""inspect CHECKPOINT [--robot R]: what is in a checkpoint, what is missing, and whether it fits a robot."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pi_vla_ros.checkpoint.fit import hints, mismatches
from pi_vla_ros.checkpoint.load import load_checkpoint
from pi_vla_ros.checkpoint.types import Checkpoint
from pi_vla_ros.cli.convert import add_settings, read_set
from pi_vla_ros.processing.normalize import STATISTICS, Transform
from pi_vla_ros.robot import load_robot


def main(arguments: Sequence[str] | None = None) -> int:
    """0: can be used (and fits the robot); 1: does not fit or lacks something; 2: cannot be read."""
    parser = argparse.ArgumentParser(prog="inspect", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--robot", help="robot name or YAML: also check that the two fit")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_settings(parser)
    args = parser.parse_args(arguments)
    try:
        checkpoint = load_checkpoint(args.checkpoint, read_set(args.set))
        robot = load_robot(args.robot) if args.robot else None
    except ValueError as error:
        parser.exit(2, f"inspect: {error}\n")
    wrong, told = list(missing(checkpoint)), list(checkpoint.notes)
    if robot is not None:
        wrong += mismatches(checkpoint, robot)
        told += hints(checkpoint, robot)
    report = describe(checkpoint) | {"problems": wrong, "notes": told}
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else as_text(report))
    return 1 if wrong else 0


def describe(c: Checkpoint) -> dict:
    """Everything about a checkpoint that a user would ask."""
    dtypes = Counter(c.weights.dtypes().values())
    return {
        "checkpoint": str(c.path),
        "format": c.format,
        "model": c.geometry.model,
        "dtype": ", ".join(f"{dtype} ({count} tensors)" for dtype, count in dtypes.most_common()),
        "geometry": {k: str(v) for k, v in asdict(c.geometry).items() if k != "model"},
        "geometry from": ", ".join(f"{s} ({n})" for s, n in Counter(c.geometry_source.values()).most_common()),
        "chunk": f"{c.geometry.chunk} actions, {c.steps} steps",
        "cameras": list(c.cameras),
        "renamed cameras": dict(c.rename),
        "state": f"{'up to ' if c.open_dims else ''}{c.state_dim}: {_normalised(c.normalization.state)}",
        "action": f"{'up to ' if c.open_dims else ''}{c.action_dim}: {_normalised(c.normalization.action)}",
        "action names": list(c.action_names or ()),
        "relative actions": "none" if c.relative is None else str([int(m) for m in c.relative.mask]),
        "prompt": f"{c.prompt_style.kind}, at most {c.geometry.prompt_len} tokens"
        + (f", state padded to {c.prompt_style.state_dims}" if c.prompt_style.state_dims else ""),
        "resize": c.resize,
        "tokenizer": str(c.tokenizer or "not found"),
        "robot file needs": robot_hint(c),
    }


def missing(c: Checkpoint) -> list[str]:
    found = []
    if c.tokenizer is None:
        found.append("tokenizer: not found; see the parameter 'tokenizer'")
    return found


def robot_hint(c: Checkpoint) -> str:
    """What the robot YAML would have to say."""
    count = f"{'at most ' if c.open_dims else ''}{c.action_dim}"
    names = f" ({', '.join(c.action_names)})" if c.action_names else ""
    slots = [slot for slot in c.cameras if not slot.startswith("empty_camera_")]
    return f"cameras: {', '.join(slots)} (those not listed are masked); joints: {count}{names}, in this order"


def as_text(report: dict) -> str:
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            value = [f"{k}: {v}" for k, v in value.items()]
        if isinstance(value, list):
            value = ("\n" + " " * 20).join(map(str, value)) or "none"
        lines.append(f"{key + ':':<20}{value}")
    return "\n".join(lines)


def _normalised(t: Transform) -> str:
    if t.mode == "identity":
        return "not normalised"
    first, second = STATISTICS[t.mode]
    numbers = ", ".join(f"[{a:.4g}, {b:.4g}]" for a, b in zip(t.a, t.b, strict=True))
    return f"{t.mode} ({t.formula}), {first} and {second}: {numbers}"


if __name__ == "__main__":
    raise SystemExit(main())
