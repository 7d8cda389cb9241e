# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""convert SRC DST: any checkpoint -> one LeRobot folder that loads without further telling."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pi_vla_ros.checkpoint.load import load_checkpoint
from pi_vla_ros.checkpoint.write import new_folder, write_checkpoint

DTYPES = {"same": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="convert", description=__doc__)
    parser.add_argument("source", type=Path, help="LeRobot, openpi PyTorch or openpi JAX checkpoint folder")
    parser.add_argument("target", type=Path, help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=DTYPES, default="same", help="of the written weights")
    add_settings(parser)
    args = parser.parse_args(arguments)
    try:
        settings = read_set(args.set)
        convert(args.source, args.target, DTYPES[args.dtype], settings, sys.stderr.isatty())
    except KeyboardInterrupt:
        parser.exit(130, "\nconvert: interrupted; nothing was written\n")
    except (ValueError, OSError) as error:
        parser.exit(1, f"convert: {error}\n")
    print(args.target)
    return 0


def convert(
    source: Path,
    target: Path,
    dtype: torch.dtype | None = None,
    settings: dict | None = None,
    show: bool = False,
) -> None:
    """Write `target` and load it again (headers) before it appears. dtype None: each tensor keeps its own."""
    checkpoint = load_checkpoint(source, settings)

    def progress(done: int, total: int) -> None:
        if show or done == total:
            print(f"\r{done} of {total} tensors", end="\n" if done == total else "", file=sys.stderr, flush=True)

    for note in checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    with new_folder(target) as draft:
        write_checkpoint(checkpoint, draft, dtype, progress=progress)
        load_checkpoint(draft)


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=JSON",
        help="what the files do not say: geometry.chunk=10, relative='[true, false]', assets='\"droid\"'",
    )


def read_set(pairs: Sequence[str]) -> dict:
    """['geometry.chunk=10', 'assets=droid'] -> {'geometry': {'chunk': 10}, 'assets': 'droid'}."""
    settings: dict = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise ValueError(f"--set {pair}: must be KEY=JSON")
        try:
            value = json.loads(text)
        except ValueError:
            value = text  # a bare word
        *parents, last = path.split(".")
        place = settings
        for key in parents:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {pair}: '{key}' has a value already")
        place[last] = value
    return settings


if __name__ == "__main__":
    raise SystemExit(main())
