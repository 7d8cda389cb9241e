# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One demo, from starting the processes to the report."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rich.console import Console
from rich.live import Live
from std_msgs.msg import String

from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.sim.demo.monitor import Monitor
from pi_vla_ros.sim.demo.pictures import draw
from pi_vla_ros.sim.demo.processes import Process, isolated_environment
from pi_vla_ros.sim.demo.summary import summarise
from pi_vla_ros.sim.demo.table import live_table

START = 90.0  # s until the first command must have come
REFRESH = 0.25  # s
# A random network knows no task, but it hears: another sentence makes it move elsewhere.
PROMPTS = (
    "pick up the red block",
    "put the blue block on the green one",
    "wave to the camera",
    "push all blocks to the left",
)


@dataclass(frozen=True)
class Demo:
    """duration: s after the first command; seed: of blocks and noise."""

    robot: RobotConfig
    robot_name: str
    checkpoint: Path
    folder: Path
    duration: float
    seed: int = 0
    faults: str = ""


def run_demo(demo: Demo, console: Console) -> dict:
    """Run and report; the summary. `exit_reason` is 'finished' or says what failed."""
    environment = isolated_environment()
    os.environ.update(environment)
    report = demo.folder / "sim.json"
    console.print(f"starting robot '{demo.robot.name}' and policy node (ROS_DOMAIN_ID={environment['ROS_DOMAIN_ID']})")
    robot = Process(
        "sim_robot",
        "pi_vla_ros.sim.node",
        {
            "robot": demo.robot_name,
            "seed": demo.seed,
            "report": report,
            "faults": f"'{demo.faults}'",
        },
        demo.folder / "sim_robot.log",
        environment,
    )
    policy = Process(
        "policy_node",
        "pi_vla_ros.ros.policy_node",
        {
            "robot": demo.robot_name,
            "checkpoint": demo.checkpoint,
            "prompt": f"'{PROMPTS[0]}'",
            "autostart": "true",
            "cpu_threads": 1,
            "num_inference_steps": 4,  # two cores are shared with the simulation
            "noise_scale": 0.0,  # a random network only amplifies noise
        },
        demo.folder / "policy_node.log",
        environment,
    )
    rclpy.init()
    monitor = Monitor(demo.robot, demo.folder / "bag")
    try:
        elapsed, reason = _watch(demo, monitor, [robot, policy], console)
    except KeyboardInterrupt:
        elapsed, reason = 0.0, "interrupted"
    finally:
        policy.end()
        robot.end()
        monitor.close()
        rclpy.try_shutdown()
    sent = json.loads(report.read_text())["cameras"] if report.is_file() else {}
    stamps = {slot: entry["sent"] for slot, entry in sent.items()}
    summary = summarise(monitor, demo.robot, stamps, elapsed, reason)
    (demo.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print("drawing the report")
    draw(monitor, demo.robot, summary, demo.folder)
    return summary


def _watch(demo: Demo, monitor: Monitor, processes: list[Process], console: Console) -> tuple[float, str]:
    """Show the live table until the time is up or something fails: (s since the first command, reason)."""
    begin, first, said = time.monotonic(), None, 0
    with Live(console=console, refresh_per_second=1 / REFRESH) as live:
        while True:
            time.sleep(REFRESH)
            now = time.monotonic()
            if first is None and monitor.commanded:
                first = now
            elapsed = now - first if first else 0.0
            live.update(live_table(monitor, elapsed, demo.duration))
            for process in processes:
                if process.died:
                    return elapsed, f"{process.name} died:\n{process.last_words()}"
            if first is None and now - begin > START:
                detail = monitor.status.detail if monitor.status else "the policy node sent no status"
                return 0.0, f"no command of the policy arrived within {START:.0f} s: {detail}"
            if elapsed >= demo.duration:
                return elapsed, "finished"
            turn = int(elapsed / max(2.0, demo.duration / len(PROMPTS)))
            if turn > said:
                said = turn
                monitor.prompt.publish(String(data=PROMPTS[turn % len(PROMPTS)]))
