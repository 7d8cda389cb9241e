# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The live table of a demo."""

from __future__ import annotations

from rich.table import Table

from pi_vla_ros.msg import InferenceStatus
from pi_vla_ros.sim.demo.monitor import Monitor


def live_table(monitor: Monitor, elapsed: float, duration: float) -> Table:
    table = Table(title=f"pi_vla_ros demo   {elapsed:4.1f} / {duration:.0f} s", title_justify="left", width=86)
    table.add_column("what", style="cyan", no_wrap=True)
    table.add_column("now")
    status = monitor.status
    if status is None:
        table.add_row("state", "waiting for the policy node")
        return table
    for what, now in _rows(status, monitor):
        table.add_row(what, now)
    return table


def _rows(status: InferenceStatus, monitor: Monitor):
    yield "state", f"{status.state}   {status.detail}"
    yield "prompt", status.prompt
    yield (
        "ticks / inferences",
        f"{status.tick} / {status.inferences}   deadline misses {status.deadline_misses}",
    )
    cameras = zip(status.camera_names, status.camera_rate_hz, status.camera_age_ms, strict=True)
    for name, rate, age in cameras:
        yield name, f"{rate:5.1f} Hz   age {age:5.1f} ms"
    yield "skew, state age", f"{status.skew_ms:.1f} ms, {status.state_age_ms:.1f} ms"
    stages = zip(status.stage_names, status.stage_ms, strict=True)
    yield "stages, ms", "  ".join(f"{name} {ms:.1f}" for name, ms in stages)
    yield "inference, plan", f"{status.inference_ms:.1f} ms, {status.plan_ms:.1f} ms"
    drops = zip(status.drop_reasons, status.drop_counts, strict=True)
    yield "drops", "  ".join(f"{reason} {count}" for reason, count in drops) or "none"
    if status.commands_sent:
        yield (
            "commands",
            f"{status.commands_sent}   interval p50 {status.command_interval_p50_ms:.2f} ms, "
            f"p99 {status.command_interval_p99_ms:.2f} ms",
        )
    yield "trajectories, joins", f"{monitor.trajectory_count}, {status.joins}"
