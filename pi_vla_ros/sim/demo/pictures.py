# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The pictures and the report of a demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from pi_vla_ros.processing.frames import decode
from pi_vla_ros.replay import plots
from pi_vla_ros.replay.report import write_report
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.sim.demo.monitor import Monitor
from pi_vla_ros.types import seconds

MOMENTS = 3  # rows of the camera picture
GRID = 0.02  # s


def draw(monitor: Monitor, robot: RobotConfig, summary: dict, folder: Path) -> None:
    """PNGs and report.html into `folder`; what was not recorded is left out."""
    pictures = {}
    if all(monitor.frames.values()):
        pictures["Cameras"] = folder / "cameras.png"
        plots.cameras(_views(monitor, robot), pictures["Cameras"])
    measured, commanded = _measured(monitor), commanded_curve(monitor, robot)
    if measured is not None and commanded is not None:
        pictures["Commanded and measured joints"] = folder / "joints.png"
        plots.joints(robot, commanded, measured, pictures["Commanded and measured joints"])
    if monitor.statuses:
        pictures["Latency"] = folder / "latency.png"
        stages = {name: [] for name in monitor.statuses[-1].stage_names}
        for status in monitor.statuses:
            for name, ms in zip(status.stage_names, status.stage_ms, strict=True):
                stages.setdefault(name, []).append(ms)
        arrivals = np.array([t for t, _ in (monitor.commands or monitor.trajectories)])
        plots.latency(
            stages,
            [s.inference_ms for s in monitor.statuses if s.inferences],
            arrivals,
            pictures["Latency"],
        )
    write_report(folder / "report.html", f"Demo on robot '{robot.name}'", summary, pictures)


def commanded_curve(monitor: Monitor, robot: RobotConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(times, positions, velocities) of what was commanded: the trajectories as a controller plays them, or stream."""
    if not monitor.trajectories:
        return _streamed(monitor)
    times, positions, velocities = [], [], []
    ends = [received for received, _ in monitor.trajectories[1:]] + [np.inf]
    for (received, message), end in zip(monitor.trajectories, ends, strict=True):
        start = seconds(message.header.stamp)
        at = np.array([start + p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in message.points])
        played = (at >= received) & (at < end)
        times.append(at[played])
        positions.append(np.array([p.positions for p in message.points])[played])
        velocities.append(np.array([p.velocities for p in message.points])[played])
    return np.concatenate(times), np.concatenate(positions), np.concatenate(velocities)


def _streamed(monitor: Monitor) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The stream on an even grid: it carries no stamps, and arrival jitters too much to be differentiated."""
    if len(monitor.commands) < 2:
        return None
    times, positions = (np.array([entry[i] for entry in monitor.commands]) for i in (0, 1))
    grid = np.arange(times[0], times[-1], GRID)
    positions = np.stack([np.interp(grid, times, column) for column in positions.T], axis=1)
    return grid, positions, np.gradient(positions, GRID, axis=0)


def _measured(monitor: Monitor) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if not monitor.measured:
        return None
    return tuple(np.array([entry[i] for entry in monitor.measured]) for i in range(3))


def _views(monitor: Monitor, robot: RobotConfig) -> list[tuple[float, dict[str, np.ndarray]]]:
    """A few moments of the run: (s since the first, slot -> RGB)."""
    rows, begin = [], min(frames[0][0] for frames in monitor.frames.values())
    for k in range(MOMENTS):
        views, time = {}, 0.0
        for slot, frames in monitor.frames.items():
            time, serialised = frames[round(k * (len(frames) - 1) / (MOMENTS - 1))]
            kind = Image if robot.cameras[slot].transport == "raw" else CompressedImage
            views[slot] = decode(deserialize_message(serialised, kind))
        rows.append((time - begin, views))
    return rows
