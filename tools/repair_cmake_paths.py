# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Point the CMake exports of the ROS wheels at this interpreter's headers.

The wheels were built elsewhere, and their exported targets still name that machine's Python and
NumPy include directories. CMake refuses an include directory that does not exist, so both are
rewritten to this environment's own. Running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy


def main() -> int:
    repairs = (
        (re.compile(r'/opt/python/[^/;"]+/include/python3\.\d+'), sysconfig.get_path("include")),
        (re.compile(r'/opt/python/[^;"]+/numpy/(?:_core|core)/include'), numpy.get_include()),
    )
    repaired = 0
    for path in Path(sys.prefix, "share").rglob("*.cmake"):
        before = after = path.read_text()
        for foreign, ours in repairs:
            after = foreign.sub(lambda _, ours=ours: ours, after)
        if after != before:
            path.write_text(after)
            repaired += 1
    print(f"repaired {repaired} CMake exports under {sys.prefix}/share")
    return 0


if __name__ == "__main__":
    sys.exit(main())
