# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/robot_file.md, the reference of config/robots/*.yaml, from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from pi_vla_ros.robot import RobotConfig

TARGET = Path(__file__).resolve().parents[1] / "docs" / "robot_file.md"
HEAD = """# The robot file

One YAML file describes a robot to the policy; examples are in [config/robots](../config/robots). Every key, its unit,
what is allowed and the default. This page is written by `python tools/write_robot_reference.py`.

| key | meaning | unit | default |
|---|---|---|---|
"""


def main() -> None:
    TARGET.write_text(reference(), encoding="utf-8")


def reference() -> str:
    return HEAD + "\n".join(_rows(RobotConfig, "")) + "\n"


def _rows(cls: type, prefix: str):
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, key = hints[field.name], prefix + field.name
        inner, suffix = _inside(kind)
        if inner is None:
            yield f"| `{key}` | {_meaning(field, kind)} | {field.metadata.get('unit', '')} | {_default(field)} |"
        else:
            doc = field.metadata.get("doc") or (inner.__doc__ or "").split("\n")[0].rstrip(".")
            yield f"| **`{key}{suffix}`** | {doc} | | {_default(field)} |"
            yield from _rows(inner, f"{key}{suffix}.")


def _inside(kind) -> tuple[type | None, str]:
    """The dataclass that a setting holds, and how its entries are written."""
    origin, args = get_origin(kind), get_args(kind)
    if type(None) in args and dataclasses.is_dataclass(args[0]):
        return args[0], ""
    if dataclasses.is_dataclass(kind):
        return kind, ""
    if origin is tuple and dataclasses.is_dataclass(args[0]):
        return args[0], "[i]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return args[1], ".<slot>"
    return None, ""


def _meaning(field, kind) -> str:
    doc, meta = field.metadata.get("doc", ""), field.metadata
    bounds = [
        f"{word} {meta[name]:g}"
        for name, word in (("above", "more than"), ("least", "at least"), ("most", "at most"))
        if meta.get(name) is not None
    ]
    choice = get_args(kind)[0] if type(None) in get_args(kind) else kind
    if get_origin(choice) is Literal:
        bounds.append("one of " + ", ".join(f"`{value}`" for value in get_args(choice)))
    return doc + (f" ({'; '.join(bounds)})" if bounds else "")


def _default(field) -> str:
    if field.default is not dataclasses.MISSING:
        return "none" if field.default is None else f"`{field.default}`" if field.default not in ("", ()) else "empty"
    return "" if field.default_factory is not dataclasses.MISSING else "required"


if __name__ == "__main__":
    main()
