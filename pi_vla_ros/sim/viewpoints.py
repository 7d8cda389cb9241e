# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where the cameras are: one per slot, at a wrist, at the base view, or on a stand of its own."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np

from pi_vla_ros.sim.mjcf import add

BASE_VIEW = ((0.84, -0.70, 0.64), (-0.12, -0.03, 0.20))  # m: from, at
OTHER_VIEWS = (  # for slots that are neither the base view nor at a wrist
    ((0.05, 0.0, 1.35), (0.06, 0.0, 0.0)),
    ((0.25, 1.05, 0.55), (-0.05, 0.0, 0.15)),
    ((0.25, -1.05, 0.55), (-0.05, 0.0, 0.15)),
)


def place_cameras(world: ET.Element, hands: Sequence[ET.Element], slots: Sequence[str]) -> None:
    """Add a camera with the name of each slot. `hands`: bodies, the left arm's first."""
    others = 0
    for slot in slots:
        if "wrist" in slot:
            right = "right" in slot
            hand = hands[min(int(right), len(hands) - 1)]  # one arm carries both of its cameras
            _at_wrist(hand, slot, side=-1 if right else 1)
        elif slot.startswith("base"):
            _on_stand(world, slot, *BASE_VIEW)
        else:
            _on_stand(world, slot, *OTHER_VIEWS[others % len(OTHER_VIEWS)])
            others += 1


def _at_wrist(hand: ET.Element, slot: str, side: int) -> None:
    """On the left (1) or right (-1) of the hand; the fingertips are at the bottom of the image."""
    eye, at = np.array([side * 0.090, 0, 0.022]), np.array([side * 0.018, 0, 0.16])
    box = dict(type="box", mass=0, contype=0, conaffinity=0)
    housing, holder = (0.014, 0.020, 0.012), (0.030, 0.008, 0.004)
    behind, tilt = eye - [0, 0, 0.016], (0, side * -0.45, 0)
    add(hand, "geom", **box, size=housing, pos=behind, euler=tilt, material="rubber")
    add(hand, "geom", **box, size=holder, pos=(side * 0.052, 0, 0.022), material="dark")
    _camera(hand, slot, eye, at, up=np.array([side, 0, 0]), fovy=72)


def _on_stand(world: ET.Element, slot: str, eye, at) -> None:
    eye, at = np.array(eye), np.array(at)
    straight_down = np.hypot(*(at - eye)[:2]) < 0.1
    up = np.array([1.0, 0, 0] if straight_down else [0, 0, 1.0])
    _camera(world, slot, eye, at, up, fovy=45)


def _camera(body, slot: str, eye: np.ndarray, at: np.ndarray, up: np.ndarray, fovy: float) -> None:
    """fovy: degrees, over the height of the image."""
    back = (eye - at) / np.linalg.norm(eye - at)
    right = np.cross(up, back)
    right /= math.hypot(*right)
    axes = (*right, *np.cross(back, right))
    add(body, "camera", name=slot, pos=eye, xyaxes=axes, fovy=fovy)
