# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a run was, in numbers: `summary.json`."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.msg import InferenceStatus
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.sim.demo.monitor import Monitor
from pi_vla_ros.types import seconds


def summarise(monitor: Monitor, robot: RobotConfig, sent: dict[str, list[float]], duration: float, reason: str) -> dict:
    """`sent`: stamps of the frames that each camera sent, s."""
    statuses = monitor.statuses
    last = statuses[-1] if statuses else InferenceStatus()
    inferred = _one_per_inference(statuses)
    names = last.stage_names
    stages = {n: [s.stage_ms[list(s.stage_names).index(n)] for s in inferred if n in s.stage_names] for n in names}
    cameras = list(last.camera_names)
    return {
        "exit_reason": reason,
        "robot": robot.name,
        "duration_s": round(duration, 3),
        "ticks": last.tick,
        "inferences": last.inferences,
        "deadline_misses": last.deadline_misses,
        "drops": dict(zip(last.drop_reasons, last.drop_counts, strict=True)),
        "stage_ms": {name: percentiles(values) for name, values in stages.items()},
        "inference_ms": percentiles([s.inference_ms for s in inferred]),
        "plan_ms": percentiles([s.plan_ms for s in inferred]),
        "skew_ms": percentiles([s.skew_ms for s in inferred]),
        "data_age_ms": {
            **{c: percentiles([s.camera_age_ms[i] for s in inferred]) for i, c in enumerate(cameras)},
            "joint_states": percentiles([s.state_age_ms for s in inferred]),
        },
        "cameras": {c: _received(statuses, i, sent.get(c, [])) for i, c in enumerate(cameras)},
        "command_interval_ms": _command_intervals(monitor, last, robot),
        "commands": int(last.commands_sent),
        "trajectories": len(monitor.trajectories),
        "joins": {
            "count": last.joins,
            "position_step_max": last.join_position_step_max,
            "velocity_step_max": last.join_velocity_step_max,
            "acceleration_step_max": last.join_acceleration_step_max,
        },
        "clips": {
            "position": last.clipped_position,
            "velocity": last.clipped_velocity,
            "acceleration": last.clipped_acceleration,
            "jerk": last.clipped_jerk,
        },
        "state_transitions": transitions(statuses),
    }


def percentiles(values) -> dict[str, float]:
    """p50, p99 and max; empty without values."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {
        "p50": round(float(p50), 3),
        "p99": round(float(p99), 3),
        "max": round(float(values.max()), 3),
    }


def transitions(statuses: list[InferenceStatus]) -> list[dict]:
    """Changes of the motion's state as the statuses tell them, from None in the first one; time since that, s."""
    found, before = [], None
    for status in statuses:
        if status.state != before:
            after = seconds(status.header.stamp) - seconds(statuses[0].header.stamp)
            found.append({"at_s": round(after, 3), "from": before, "to": status.state})
        before = status.state
    return found


def _one_per_inference(statuses: list[InferenceStatus]) -> list[InferenceStatus]:
    kept, seen = [], 0
    for status in statuses:
        if status.inferences > seen:
            kept.append(status)
            seen = status.inferences
    return kept


def _received(statuses: list[InferenceStatus], camera: int, sent: list[float]) -> dict:
    """Frames sent and received between the first and the last frame that the policy node saw."""
    seen = [s for s in statuses if s.camera_received[camera]]
    if not seen or not sent:
        return {"sent": len(sent), "received": 0}

    def newest(status: InferenceStatus) -> float:
        return seconds(status.header.stamp) - 1e-3 * status.camera_age_ms[camera]

    first, last, slack = newest(seen[0]), newest(seen[-1]), 1e-3
    count = sum(first + slack < stamp <= last + slack for stamp in sent)
    received = seen[-1].camera_received[camera] - seen[0].camera_received[camera]
    return {
        "sent": count,
        "received": int(received),
        "share": round(received / count, 4) if count else None,
    }


def _command_intervals(monitor: Monitor, last: InferenceStatus, robot: RobotConfig) -> dict[str, float]:
    """As the streamer measured them where it publishes; of a trajectory controller's input, as they arrived."""
    if robot.streams:
        p50, p99, longest = (
            last.command_interval_p50_ms,
            last.command_interval_p99_ms,
            last.command_interval_max_ms,
        )
    else:
        p50, p99, _, longest = monitor.command_arrivals.percentiles()
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(longest, 3)}
