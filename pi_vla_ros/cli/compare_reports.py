# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`compare-reports A B`: two replays of the same recordings side by side, with a paired test per metric."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pi_vla_ros.replay.compare import FEWEST, compare_replays
from pi_vla_ros.replay.report import page, table
from pi_vla_ros.replay.store import write_text

HEADS = ("metric (less is better)", "A", "B", "B - A", "p", "better")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: compared; 2: cannot be."""
    parser = argparse.ArgumentParser(prog="compare-reports", description=__doc__)
    parser.add_argument("a", type=Path, help="folder of a replay (its --out)")
    parser.add_argument("b", type=Path, help="folder of another, of the same recordings")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--html", type=Path, help="also write a page")
    args = parser.parse_args(arguments)
    try:
        found = compare_replays(args.a, args.b)
        if args.html:
            write_text(args.html, page("Two replays", _body(found)))
    except ValueError as error:
        parser.exit(2, f"compare-reports: {error}\n")
    except OSError as error:
        parser.exit(2, f"compare-reports: {error.filename}: {error.strerror}\n")
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    shown = Table(*HEADS)
    for row in _rows(found):
        shown.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    console = Console()
    console.print(f"A: {found['a']}\nB: {found['b']}", markup=False, highlight=False, soft_wrap=True)
    console.print(shown)
    console.print(_note(found), markup=False)
    return 0


def _rows(found: dict) -> list[tuple]:
    none = "-"
    return [
        (name, *(none if m[k] is None else m[k] for k in ("a", "b", "difference", "p")), m["better"].upper())
        for name, m in found["metrics"].items()
    ]


def _note(found: dict) -> str:
    count = len(found["recordings"])
    words = (
        f"Wilcoxon signed-rank test over {count} recordings; with {len(found['metrics'])} metrics, expect a chance hit."
    )
    if count < FEWEST:
        words = f"{count} recordings in both: a test needs at least {FEWEST}, so no p is given."
    return words + (f" Left out, in one only: {', '.join(found['only_in_one'])}." if found["only_in_one"] else "")


def _body(found: dict):
    yield f"<p>A: {html.escape(found['a'])}<br>B: {html.escape(found['b'])}</p>"
    yield table(_rows(found), HEADS)
    yield f"<p>{html.escape(_note(found))}</p>"


if __name__ == "__main__":
    raise SystemExit(main())
