# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Things that go wrong, on purpose: faults of cameras and joint states at given times.

A fault is `kind:what:when`; several are separated by spaces or commas. `when` is `from-to` or
`from-` in s since the robot started. The kinds:

    drop:left_wrist_0_rgb:5-8     no frames of this camera (or all_cameras, or joint_states)
    stop:all_cameras:5-           the same as drop
    freeze:base_0_rgb:5-8         the same pixels under fresh stamps: a driver repeats its buffer
    repeat:base_0_rgb:5-8         the same message again and again, stamp included
    delay:base_0_rgb:0.3:5-8      frames arrive 0.3 s late; their stamps tell the truth
    nan_state:5-5.2               joint positions are NaN (nan_state:joint3:5-5.2: of one joint)
    missing_joint:joint3:5-6      this joint is not in joint_states
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

ALL_CAMERAS = "all_cameras"
JOINT_STATES = "joint_states"
KINDS = ("drop", "stop", "freeze", "repeat", "delay", "nan_state", "missing_joint")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    kind:       one of KINDS, with 'stop' read as 'drop'.
    target:     a slot, a joint, ALL_CAMERAS, JOINT_STATES, or '' for all joints.
    start, end: s since the robot started; end exclusive.
    seconds:    what 'delay' adds.
    """

    kind: str
    target: str
    start: float
    end: float
    seconds: float = 0.0


class FaultError(ValueError):
    """A fault string is wrong; the message says which part and what is allowed."""


def parse_faults(text: str, slots: Collection[str], joints: Collection[str]) -> list[Fault]:
    """Read the faults in `text`; slots and joints are the names that exist."""
    return [_parse(word, slots, joints) for word in re.split(r"[\s,;]+", text) if word]


class Faults:
    """What is wrong at a given time (s since the robot started)."""

    def __init__(self, faults: Iterable[Fault] = ()):
        self._faults = tuple(faults)

    def camera(self, kind: str, slot: str, time: float) -> Fault | None:
        """The fault of this kind that camera `slot` has now."""
        return self._find(kind, (slot, ALL_CAMERAS), time)

    def states_stopped(self, time: float) -> bool:
        return self._find("drop", (JOINT_STATES,), time) is not None

    def nan_joints(self, time: float, joints: Iterable[str]) -> list[str]:
        """Which of `joints` report NaN now."""
        return self._joints("nan_state", time, joints)

    def missing_joints(self, time: float, joints: Iterable[str]) -> list[str]:
        """Which of `joints` are not reported now."""
        return self._joints("missing_joint", time, joints)

    def _joints(self, kind: str, time: float, joints: Iterable[str]) -> list[str]:
        hit = {fault.target for fault in self._faults if fault.kind == kind and fault.start <= time < fault.end}
        return [name for name in joints if hit and (name in hit or "" in hit)]

    def _find(self, kind: str, targets: Collection[str], time: float) -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind and fault.target in targets and fault.start <= time < fault.end:
                return fault
        return None


def _parse(word: str, slots: Collection[str], joints: Collection[str]) -> Fault:
    kind, *rest = word.split(":")
    if kind not in KINDS:
        raise FaultError(f"fault '{word}': kind '{kind}' is not known; allowed: {', '.join(KINDS)}")
    form = {
        "delay": "delay:<camera>:<seconds>:<from>-<to>",
        "nan_state": "nan_state:<from>-<to> or nan_state:<joint>:<from>-<to>",
        "missing_joint": "missing_joint:<joint>:<from>-<to>",
    }.get(kind, f"{kind}:<camera>:<from>-<to>")
    if kind == "nan_state" and len(rest) == 1:
        rest = ["", *rest]
    if len(rest) != (3 if kind == "delay" else 2):
        raise FaultError(f"fault '{word}': must be {form}")
    target = rest[0]
    if kind in ("nan_state", "missing_joint"):
        allowed = [*joints, ""] if kind == "nan_state" else [*joints]
    else:
        allowed = [*slots, ALL_CAMERAS] + ([JOINT_STATES] if kind in ("drop", "stop") else [])
    if target not in allowed:
        raise FaultError(f"fault '{word}': '{target}' is not known; allowed: {', '.join(filter(None, allowed))}")
    start, end = _span(word, rest[-1], form)
    seconds = _number(word, rest[1], form) if kind == "delay" else 0.0
    return Fault("drop" if kind == "stop" else kind, target, start, end, seconds)


def _span(word: str, text: str, form: str) -> tuple[float, float]:
    start, dash, end = text.partition("-")
    if not dash:
        raise FaultError(f"fault '{word}': time '{text}' has no '-'; must be {form}")
    first, last = _number(word, start, form), _number(word, end, form) if end else math.inf
    if not first < last:
        raise FaultError(f"fault '{word}': ends at {last} s, before it starts at {first} s")
    return first, last


def _number(word: str, text: str, form: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise FaultError(f"fault '{word}': '{text}' is not a number of seconds from 0 up; must be {form}")
    return value
