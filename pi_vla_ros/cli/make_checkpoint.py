# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""make-checkpoint DST: a LeRobot folder with seeded random weights and a small tokenizer."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from pi_vla_ros.checkpoint.random_checkpoint import random_checkpoint
from pi_vla_ros.checkpoint.write import new_folder, write_checkpoint
from pi_vla_ros.model.geometry import PI0, PI05, Geometry, tiny
from pi_vla_ros.processing.train_tokenizer import train_tokenizer
from pi_vla_ros.robot import load_robot

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make-checkpoint", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--model", choices=("pi0", "pi05"), default="pi05")
    parser.add_argument(
        "--geometry",
        default="tiny",
        help='tiny, full, or changes to tiny as JSON: \'{"chunk": 10, "vision": {"depth": 1}}\'',
    )
    parser.add_argument("--robot", default="sim", help="robot name or YAML: dimensions, cameras, joint limits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--prefix", choices=("model.", "bare"), default="model.", help="as LeRobot or as openpi names")
    args = parser.parse_args(arguments)
    try:
        make_checkpoint(
            args.folder,
            parse_geometry(args.model, args.geometry),
            args.robot,
            args.seed,
            DTYPES[args.dtype],
            outer=args.prefix == "model.",
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"make-checkpoint: {error}\n")
    print(args.folder)
    return 0


def make_checkpoint(
    folder: Path | str,
    geometry: Geometry,
    robot: str = "sim",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    outer: bool = True,
) -> Path:
    """Write the folder; the same arguments give the same bytes."""
    folder = Path(folder)
    with new_folder(folder) as draft, tempfile.TemporaryDirectory() as scratch:
        tokenizer = train_tokenizer(Path(scratch), geometry.vocab)
        write_checkpoint(random_checkpoint(load_robot(robot), geometry, seed, tokenizer), draft, dtype, outer)
    return folder


def parse_geometry(model: str, text: str) -> Geometry:
    """'tiny', 'full', or JSON changes to tiny."""
    if text in ("tiny", "full"):
        return tiny(model) if text == "tiny" else (PI05 if model == "pi05" else PI0)
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise ValueError(f"geometry: neither 'tiny' nor 'full' nor JSON: {error}") from error
    return _changed(tiny(model), changes, "geometry")


def _changed(base, changes, where: str):
    names = {f.name for f in fields(base)} - {"model"}
    if not isinstance(changes, dict) or not set(changes) <= names:
        raise ValueError(f"{where}: must be a JSON mapping with some of {', '.join(sorted(names))}")
    values = {
        name: _changed(getattr(base, name), value, f"{where}.{name}") if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    wrong = [name for name, value in values.items() if type(value) is not type(getattr(base, name))]
    if wrong:
        raise ValueError(f"{where}.{wrong[0]}: must be like {getattr(base, wrong[0])!r}, is {values[wrong[0]]!r}")
    return replace(base, **values)


if __name__ == "__main__":
    raise SystemExit(main())
