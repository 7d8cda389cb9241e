# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: InferenceStatus every tick, diagnostics every second."""

from __future__ import annotations

from collections import Counter

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from pi_vla_ros.control.motion import State
from pi_vla_ros.control_loop import ControlLoop
from pi_vla_ros.msg import InferenceStatus
from pi_vla_ros.observation_buffer import ObservationBuffer
from pi_vla_ros.ros.messages import time_message
from pi_vla_ros.ros.stream import Stream

LIMITS = ("position", "velocity", "acceleration", "jerk")
LOST_FRAMES = 0.3  # share of a camera's frames lost on the way that is worth an alarm


def status_message(now: float, loop: ControlLoop, stream: Stream | None) -> InferenceStatus:
    t, motion, buffer = loop.telemetry, loop.motion, loop.buffer
    state, counters = motion.update(now), motion.counters
    camera_ages, state_age = buffer.ages(now)
    drops = Counter(t.drops)  # a copy: the inference thread counts too
    for more in (buffer.dropped, counters.rejected):
        drops.update(dict(more))
    message = InferenceStatus(
        tick=t.ticks,
        inferences=t.inferences,
        deadline_misses=t.deadline_misses,
        state=state.name,
        enabled=motion.enabled,
        estop=motion.estopped,
        detail=t.detail if state is not State.RUNNING else "",
        prompt=loop.prompt,
        stage_names=list(t.stage_ms),
        stage_ms=[float(v) for v in t.stage_ms.values()],
        inference_ms=t.inference_ms,
        plan_ms=t.plan_ms,
        inference_stalled=t.stalled,
        skew_ms=t.skew_ms,
        camera_names=list(camera_ages),
        camera_age_ms=[1e3 * age for age in camera_ages.values()],
        camera_rate_hz=[buffer.cameras[slot].rate for slot in camera_ages],
        camera_received=[buffer.cameras[slot].received for slot in camera_ages],
        state_age_ms=1e3 * state_age,
        drop_reasons=list(drops),
        drop_counts=list(drops.values()),
        joins=counters.joins.count,
        join_position_step_max=counters.joins.position_step,
        join_velocity_step_max=counters.joins.velocity_step,
        join_acceleration_step_max=counters.joins.acceleration_step,
    )
    message.header.stamp = time_message(now)
    for limit, count, most in zip(LIMITS, counters.clipped, counters.clip_most, strict=True):
        setattr(message, f"clipped_{limit}", int(count))
        setattr(message, f"clip_most_{limit}", float(most))
    if stream:
        message.commands_sent, message.commands_bridged = stream.sent, stream.bridged
        for name, interval in zip(("p50", "p99", "p999", "max"), stream.intervals_ms, strict=True):
            setattr(message, f"command_interval_{name}_ms", interval)
    return message


def diagnostics_message(now: float, name: str, status: InferenceStatus, buffer: ObservationBuffer) -> DiagnosticArray:
    """Motion, inference and each camera, with what to do where something is wrong."""
    message = DiagnosticArray(status=[_motion(name, status), _inference(name, status)])
    for slot, record in buffer.cameras.items():
        message.status.append(_camera(name, slot, record))
    message.header.stamp = time_message(now)
    return message


def _motion(name: str, status: InferenceStatus) -> DiagnosticStatus:
    level = {"ESTOP": DiagnosticStatus.ERROR, "ENDING": DiagnosticStatus.WARN, "HOLDING": DiagnosticStatus.WARN}
    words = State[status.state].value + (f": {status.detail}" if status.detail else "")
    return _entry(
        f"{name}: motion",
        level.get(status.state, DiagnosticStatus.OK),
        words,
        joins=status.joins,
        **{f"clipped_{limit}": getattr(status, f"clipped_{limit}") for limit in LIMITS},
        **{f"clip_most_{limit}": f"{getattr(status, f'clip_most_{limit}'):.4g}" for limit in LIMITS},
        commands_sent=status.commands_sent,
        commands_bridged=status.commands_bridged,
        **{
            f"command_interval_{name}_ms": round(getattr(status, f"command_interval_{name}_ms"), 3)
            for name in ("p50", "p99", "p999", "max")
        },
    )


def _inference(name: str, status: InferenceStatus) -> DiagnosticStatus:
    stages = dict(zip(status.stage_names, (round(v, 2) for v in status.stage_ms), strict=True))
    drops = dict(zip((f"dropped_{r}" for r in status.drop_reasons), status.drop_counts, strict=True))
    level = DiagnosticStatus.OK if status.inferences else DiagnosticStatus.WARN
    words = f"{status.inferences} inferences, last {status.inference_ms:.1f} ms, {status.deadline_misses} ticks missed"
    if status.inference_stalled:
        level, words = DiagnosticStatus.ERROR, f"inference_stalled: {status.detail}"
    return _entry(
        f"{name}: inference",
        level,
        words,
        **stages,
        **drops,
    )


def _camera(name: str, slot: str, record) -> DiagnosticStatus:
    level, words = DiagnosticStatus.OK, f"{record.rate:.1f} Hz"
    if not record.received:
        level, words = DiagnosticStatus.ERROR, "no image yet: is the topic right, and its publisher's QoS?"
    elif record.lost > LOST_FRAMES:
        level = DiagnosticStatus.WARN
        words += (
            f"; {100 * record.lost:.0f} % of the frames are lost on the way. With Fast DDS, start the camera node with "
            "the profile config/fastdds.xml of pi_vla_ros (FASTRTPS_DEFAULT_PROFILES_FILE)"
        )
    return _entry(f"{name}: camera {slot}", level, words, received=record.received, rate_hz=round(record.rate, 2))


def _entry(name: str, level: bytes, words: str, **values) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=words, hardware_id="pi_vla_ros", values=pairs)
