# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Writing MJCF (MuJoCo's XML) from Python values."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable


def add(parent: ET.Element, tag: str, **attributes) -> ET.Element:
    """Append `<tag .../>` to `parent`, values written out; `range_` and the like lose the '_'."""
    return ET.SubElement(parent, tag, {k.rstrip("_"): _text(v) for k, v in attributes.items()})


def text(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode")


def _text(value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Iterable):
        return " ".join(_text(v) for v in value)
    return f"{value:.9g}"
