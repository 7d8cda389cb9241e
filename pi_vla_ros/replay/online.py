# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the live node did under a recording, from the statuses that it published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pi_vla_ros.replay.metrics import number, spread
from pi_vla_ros.types import seconds


def online_summary(statuses: Sequence) -> dict:
    """statuses: InferenceStatus messages, one per tick. Latencies are the node's own, on this machine."""
    if not statuses:
        return {"ticks": 0}
    inferred, last, times = with_inference(statuses), statuses[-1], tick_times(statuses)
    stages = {name: [] for name in last.stage_names}
    for status in inferred:
        for name, ms in zip(status.stage_names, status.stage_ms, strict=True):
            stages.setdefault(name, []).append(ms)
    count = Counter(s.state for s in statuses)
    steps = np.diff(times)
    streaming = [s for s in statuses if s.command_interval_max_ms > 0]
    return {
        "ticks": int(last.tick),
        "clock_jumps": int((steps < 0).sum()),
        "tick_interval_ms": spread(1e3 * steps[steps > 0]),
        "inferences": int(last.inferences),
        "deadline_misses": int(last.deadline_misses),
        "drops": dict(zip(last.drop_reasons, map(int, last.drop_counts), strict=True)),
        "inference_ms": spread([s.inference_ms for s in inferred]),
        "plan_ms": spread([s.plan_ms for s in inferred]),
        "stage_ms": {name: spread(values) for name, values in stages.items()},
        "skew_ms": spread([s.skew_ms for s in inferred]),
        "camera_age_ms": {
            name: spread([s.camera_age_ms[k] for s in inferred]) for k, name in enumerate(last.camera_names)
        },
        "state_age_ms": spread([s.state_age_ms for s in inferred]),
        "commands_sent": int(last.commands_sent),
        "command_interval_ms": {
            "p50": number(np.median([s.command_interval_p50_ms for s in streaming] or [np.nan])),
            "p99": number(max((s.command_interval_p99_ms for s in streaming), default=np.nan)),
            "max": number(max((s.command_interval_max_ms for s in streaming), default=np.nan)),
        },
        "joins": {"count": int(last.joins), "position_step_max": number(last.join_position_step_max)},
        "clips": int(last.clipped_position + last.clipped_velocity + last.clipped_acceleration + last.clipped_jerk),
        "states": {state: number(n / len(statuses)) for state, n in sorted(count.items())},
    }


def with_inference(statuses: Sequence) -> list:
    """Those that tell of an inference that the one before did not know."""
    known = [0, *(s.inferences for s in statuses[:-1])]
    return [s for before, s in zip(known, statuses, strict=True) if s.inferences > before]


def tick_times(statuses: Sequence) -> np.ndarray:
    """s on the recording's clock."""
    return np.array([seconds(s.header.stamp) for s in statuses])
