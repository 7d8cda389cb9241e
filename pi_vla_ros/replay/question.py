# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is asked about recordings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pi_vla_ros.robot import RobotConfig


@dataclass(frozen=True)
class Question:
    """What is asked about every recording. Times in s; policy: fields of PolicyOptions.

    delay:  assumed time of inference, which moves the simulated clock; what it takes here is only reported.
    delays: others that are tried on the same predictions.
    mcap: also write every prediction as topics.
    cameras: what a dataset calls a camera -> slot.
    """

    robot: RobotConfig
    checkpoint: str
    prompt: str = ""
    namespace: str = ""
    start: float = 0.0
    duration: float = 0.0
    delay: float = 0.033
    mcap: bool = False
    delays: tuple[float, ...] = (0.0, 0.033, 0.066, 0.1, 0.2)
    policy: dict = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.robot.twist:
            raise ValueError(
                f"robot '{self.robot.name}' is moved by twists of its end effector: a recording has no commands of "
                "joints to compare them with. replay.launch.py plays a recording to the node instead"
            )

    def as_dict(self) -> dict:
        """Everything that the answer depends on, for JSON; the checkpoint with the age of its files."""
        path = Path(self.checkpoint)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return asdict(self) | {"files": [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]}
