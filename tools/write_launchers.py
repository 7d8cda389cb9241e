# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Write the console_scripts of setup.cfg as launchers for `ros2 run`; CMakeLists.txt calls this.

Usage: write_launchers.py INTERPRETER DIRECTORY. Prints the paths written, as a CMake list.

The first line names the interpreter that built the package rather than `env python3`: the builder
is the one known to have PyTorch and the rest, and often is a virtual environment that is not active
in the terminal, launch file or systemd unit that starts the node.
"""

import configparser
import sys
from pathlib import Path

# The kernel cuts a `#!` line at the first space and at 127 bytes on older versions. A shell does
# not: to sh the second line is a command, to Python the second and third are a string.
LONG_PATH = """#!/bin/sh
'''exec' "{interpreter}" "$0" "$@"
' '''
"""

LAUNCHER = """
import sys

from {module} import {function}

sys.exit({function}())
"""


def read_entry_points(setup_cfg: Path) -> dict[str, tuple[str, str]]:
    """Return {executable: (module, function)}."""
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(setup_cfg)
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    entry_points = {}
    for line in lines:
        name, target = (part.strip() for part in line.split("="))
        module, function = target.split(":")
        entry_points[name] = (module, function)
    return entry_points


def launcher(interpreter: str, module: str, function: str) -> str:
    plain = f"#!{interpreter}\n"
    fits = " " not in interpreter and len(plain.encode()) <= 127
    head = plain if fits else LONG_PATH.format(interpreter=interpreter)
    return head + LAUNCHER.format(module=module, function=function)


def main() -> int:
    interpreter, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (module, function) in read_entry_points(Path("setup.cfg")).items():
        path = directory / name
        path.write_text(launcher(interpreter, module, function))
        path.chmod(0o755)  # --symlink-install links to this very file
        paths.append(str(path))
    print(";".join(paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
