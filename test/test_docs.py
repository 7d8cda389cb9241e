# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Documents that are written by a program are what it writes now; links of the README lead somewhere."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_robot_reference_is_current():
    written = runpy.run_path(str(ROOT / "tools" / "write_robot_reference.py"))["reference"]()
    page = (ROOT / "docs" / "robot_file.md").read_text(encoding="utf-8")
    assert page == written, "run: python tools/write_robot_reference.py"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
