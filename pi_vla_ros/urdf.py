# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Limits of the joints from a URDF, put into what a robot file says. Where both speak, the narrower applies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from pi_vla_ros.schema import ConfigError

PARAMETER = "parameter robot_description"
MOVES = ("revolute", "prismatic", "continuous")
NEEDED = ("velocity", "acceleration")


def with_urdf_limits(data: dict, where: Path, robot_description: str = "") -> dict:
    """The raw mapping of robot file `where`, its joints limited by a URDF as well; as it is where none is given.

    robot_description: the URDF's XML, or its path; goes before the file's own `urdf:`. Raises ConfigError naming the
    joint and the parameter.
    """
    text, source = _find(data, where, robot_description)
    entries = data.get("joints")
    if not text or not isinstance(entries, list):  # what is wrong with the entries is for the schema to say
        return data
    urdf = _joints(text, source)
    return data | {"joints": [_limited(e, urdf, source, f"{where}: joints[{i}]") for i, e in enumerate(entries)]}


def _find(data: dict, where: Path, robot_description: str) -> tuple[str, str]:
    """(XML, where it is from); empty where there is none."""
    given, path = robot_description.strip(), data.get("urdf")
    if given.startswith("<"):
        return given, PARAMETER
    if given:
        return _read(Path(given), PARAMETER), given
    if isinstance(path, str) and path:
        return _read(where.parent / path, f"{where}: urdf"), str(where.parent / path)
    return "", ""


def _read(path: Path, key: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}: {path} cannot be read: {words}; give the XML of a URDF or its path") from error
    if not text.strip():
        raise ConfigError(f"{key}: {path} is empty; give the XML of a URDF or its path")
    return text


def _joints(text: str, source: str) -> dict[str, ElementTree.Element]:
    if "<!DOCTYPE" in text:  # where entities would be declared: a URDF has none, and they can fill the memory
        raise ConfigError(f"{source}: has a DOCTYPE, which a URDF does not need; remove it")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ConfigError(f"{source}: not a URDF: not valid XML: {error}") from error
    if root.tag != "robot":
        raise ConfigError(f"{source}: not a URDF: its root is <{root.tag}>, not <robot>")
    return {joint.get("name", ""): joint for joint in root.findall("joint")}


def _limited(entry, urdf: Mapping[str, ElementTree.Element], source: str, where: str):
    """One entry of `joints` with the limits of its namesake."""
    if not isinstance(entry, Mapping) or entry.get("axis") or not entry.get("in_urdf", True):
        return entry
    name = entry.get("name")
    if name not in urdf:
        raise ConfigError(
            f"{where}: joint '{name}' is not in {source}; it has {', '.join(sorted(urdf)) or 'no joints'}. Is it "
            "meant to be missing there, give 'in_urdf: false' and its limits in this file"
        )
    joint = urdf[name]
    kind = joint.get("type")
    if joint.find("mimic") is not None:
        raise ConfigError(
            f"{where}: joint '{name}' mimics '{joint.find('mimic').get('joint')}' in {source}: command that one"
        )
    if kind not in MOVES:
        raise ConfigError(f"{where}: joint '{name}' is of type '{kind}' in {source}; allowed: {', '.join(MOVES)}")
    if kind == "continuous":
        endless = "position" not in entry and entry.get("continuous", True)
        given = {"continuous": True} if endless else {}
    elif entry.get("continuous") is True:
        raise ConfigError(f"{where}.continuous: is true, but {source} gives joint '{name}' the type '{kind}'")
    else:
        given = _range(joint, f"{source}: joint '{name}'")
    merged = dict(entry)
    for key, value in (given | _rates(joint, f"{source}: joint '{name}'")).items():
        merged[key] = _narrower(key, entry[key], value, f"{where}.{key}", source) if key in entry else value
    needed = NEEDED if merged.get("continuous") else ("position", *NEEDED)
    lacking = [key for key in needed if key not in merged]
    if lacking:
        key = lacking[0]
        raise ConfigError(
            f"{where}.{key}: is missing: neither this file nor {source} limits the {key} of joint '{name}'"
        )
    return merged


def _range(joint: ElementTree.Element, where: str) -> dict:
    """Position limits: of <limit>, and of <safety_controller>, which lie within."""
    low, high = _bound(joint, "limit", "lower", where), _bound(joint, "limit", "upper", where)
    soft_low = _bound(joint, "safety_controller", "soft_lower_limit", where)
    soft_high = _bound(joint, "safety_controller", "soft_upper_limit", where)
    lows, highs = ([v for v in pair if v is not None] for pair in ((low, soft_low), (high, soft_high)))
    if not lows or not highs:
        return {}
    if not max(lows) < min(highs):
        raise ConfigError(f"{where}: lowest position must be below highest, is [{max(lows)}, {min(highs)}]")
    return {"position": [max(lows), min(highs)]}


def _rates(joint: ElementTree.Element, where: str) -> dict:
    """Velocity, and acceleration and jerk where the URDF is of a version that has them."""
    rates = {}
    for key, names in (
        ("velocity", ["velocity"]),
        ("acceleration", ["acceleration", "deceleration"]),
        ("jerk", ["jerk"]),
    ):
        values = [v for name in names if (v := _bound(joint, "limit", name, where)) is not None]
        if values:
            rates[key] = min(values)
            if rates[key] <= 0:
                raise ConfigError(f"{where}: {key} must be greater than 0, is {rates[key]}: correct the URDF")
    return rates


def _bound(joint: ElementTree.Element, tag: str, name: str, where: str) -> float | None:
    element = joint.find(tag)
    text = None if element is None else element.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"{where}: {tag} {name} must be a number, is '{text}' (a xacro file has to be expanded first)"
        )
    return value


def _narrower(key: str, ours, theirs, where: str, source: str):
    """The narrower of two limits; ours as it is where it is no limit at all: the schema says what it should be."""
    if key == "continuous":
        return ours
    if key != "position":
        return min(ours, theirs) if _is_number(ours) else ours
    if not (isinstance(ours, list) and len(ours) == 2 and all(map(_is_number, ours)) and ours[0] < ours[1]):
        return ours
    low, high = max(ours[0], theirs[0]), min(ours[1], theirs[1])
    if not low < high:
        raise ConfigError(f"{where}: {ours} of this file and {theirs} of {source} have nothing in common")
    return [low, high]


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
