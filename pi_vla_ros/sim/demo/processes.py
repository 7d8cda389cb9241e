# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of a demo: started with their own logs, watched, ended politely."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from pi_vla_ros.ros.dds import shared_memory_profile

PATIENCE = 10.0  # s between asking a process to end and ending it


class Process:
    """One node as a process of its own; what it prints goes to `log`."""

    def __init__(self, name: str, module: str, parameters: dict, log: Path, environment: dict[str, str]):
        command = [sys.executable, "-m", module, "--ros-args"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={value}"]
        self.name, self.log = name, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip

    @property
    def died(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> int:
        """Ask it to end, as Ctrl-C does; its exit code."""
        if not self.died:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def last_words(self, lines: int = 8) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def isolated_environment() -> dict[str, str]:
    """The environment of the demo's nodes: this machine only, and a domain of their own. The demo publishes
    `joint_trajectory`; no real robot on the network may ever hear it."""
    environment = dict(os.environ)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment.setdefault("ROS_DOMAIN_ID", str(random.randint(60, 100)))
    return environment | shared_memory_profile(environment)
