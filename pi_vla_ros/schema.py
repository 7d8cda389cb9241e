# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""YAML -> frozen dataclasses, with errors that name the file, the key and what is allowed.

A dataclass is its own schema: the annotation gives the type, `setting(...)` gives default, range and unit.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


class ConfigError(ValueError):
    """A configuration file is wrong; the message says which file, which key, and what is allowed."""


def setting(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: str = "",
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
):
    """A dataclass field with its meaning: default (required without one), unit, and range."""
    return dataclasses.field(
        default=default,
        metadata={"doc": doc, "unit": unit, "above": above, "least": least, "most": most},
    )


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; syntax errors name the line."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, is {_kind(data)}")
    return data


def parse(cls: type, data: Any, where: str) -> Any:
    """Build dataclass `cls` from `data` (what YAML gave). `where` prefixes every error: 'file: key.key'."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: must be a mapping with {_names(cls)}, is {_kind(data)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"{_join(where, key)}: unknown key{hint} Allowed: {_names(cls)}")
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], _join(where, name), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            unit = f" [{field.metadata['unit']}]" if field.metadata.get("unit") else ""
            raise ConfigError(f"{_join(where, name)}: is missing: {field.metadata.get('doc', name)}{unit}")
    try:
        return cls(**values)
    except ConfigError as error:  # a __post_init__ check: it knows the key, not the file
        raise ConfigError(f"{where}: {error}") from error


def _value(kind: Any, data: Any, where: str, meta: Mapping) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), data, where, meta)
    if origin is Literal:
        if data not in args:
            raise ConfigError(f"{where}: is {data!r}; allowed: {', '.join(map(str, args))}")
        return data
    if origin is tuple:
        return _tuple(args, data, where, meta)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: must be a mapping, is {_kind(data)}")
        return {str(k): _value(args[1], v, _join(where, k), meta) for k, v in data.items()}
    if dataclasses.is_dataclass(kind):
        return parse(kind, data, where)
    if kind is bool or kind is str:
        if not isinstance(data, kind):
            raise ConfigError(f"{where}: must be {_NAMES[kind]}, is {_kind(data)}")
        return data
    return _number(kind, data, where, meta)


def _tuple(args: tuple, data: Any, where: str, meta: Mapping) -> tuple:
    if not isinstance(data, list):
        raise ConfigError(f"{where}: must be a list, is {_kind(data)}")
    if args[-1] is Ellipsis:
        args = (args[0],) * len(data)
    if len(data) != len(args):
        raise ConfigError(f"{where}: must have {len(args)} entries, has {len(data)}")
    return tuple(_value(a, v, f"{where}[{i}]", meta) for i, (a, v) in enumerate(zip(args, data, strict=True)))


def _number(kind: type, data: Any, where: str, meta: Mapping) -> float | int:
    unit = f" {meta['unit']}" if meta.get("unit") else ""
    if isinstance(data, bool) or not isinstance(data, (int, float)) or (kind is int and not isinstance(data, int)):
        raise ConfigError(f"{where}: must be {_NAMES[kind]}, is {_kind(data)}")
    if not math.isfinite(data):
        raise ConfigError(f"{where}: must be finite, is {data}")
    for bound, wrong, word in (
        (meta.get("above"), lambda b: data <= b, "greater than"),
        (meta.get("least"), lambda b: data < b, "at least"),
        (meta.get("most"), lambda b: data > b, "at most"),
    ):
        if bound is not None and wrong(bound):
            raise ConfigError(f"{where}: must be {word} {bound}{unit}, is {data}")
    return kind(data)


_NAMES = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}


def _kind(data: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "empty"}.get(type(data), repr(data))


def _join(where: str, key: Any) -> str:
    """'file.yaml' + key -> 'file.yaml: key'; 'file.yaml: a' + b -> 'file.yaml: a.b'."""
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"


def _names(cls: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(cls))
