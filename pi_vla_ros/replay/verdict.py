# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The numbers in a few sentences, each good or bad. Judged without a clock: the same recording, the same verdict."""

from __future__ import annotations

from pi_vla_ros.robot import RobotConfig

CAVEAT = (
    "Open loop: the policy saw what the demonstrator's arm did, not what it would have done itself. A low error here "
    "does not mean that it succeeds on the robot, and a high one may be another good way to do the task. Use it to "
    "compare checkpoints and to find what is broken before the arm moves."
)
CLEARLY_BETTER, WORTHLESS = 0.6, 1.0  # of the error of an arm that stands still
HOLDING = 0.05  # share of the time without a chunk to follow that is worth a remark
CLIPPED = 0.02  # share of the commanded points that a limit cut that is worth a remark
LOST = 0.1  # share of a camera's frames
LATE = 0.01  # share of inferences that took longer than a tick
USED = 0.8  # share of the ticks that must have had an observation


def verdict(summary: dict, robot: RobotConfig) -> dict:
    """{"good": all is well, "sentences": [{"good": bool, "text": ...}], "caveat": ...}"""
    found = [*_accuracy(summary), *_motion(summary, robot), *_inputs(summary)]
    sentences = [{"good": good, "text": text} for good, text in found]
    return {"good": all(s["good"] for s in sentences), "sentences": sentences, "caveat": CAVEAT}


def kept_time(timing: dict) -> tuple[bool, str]:
    """Whether this machine would have kept time, in a sentence. timing: what `store.timing_summary` gives."""
    took, misses, count = timing["total_ms"], timing["deadline_misses"], timing["inferences"]
    share = misses / max(1, count)
    text = (
        f"On this machine inference took {took['p50']:.1f} ms (p50), {took['p99']:.1f} ms (p99); {share:.0%} of "
        f"{count} took longer than a tick ({timing['period_ms']:.1f} ms)."
    )
    return share <= LATE, text


def _accuracy(summary: dict):
    errors = summary["errors"]
    mae, still = errors["normalised_mae"]["mean"], errors["standing_still_normalised_mae"]["mean"]
    share = mae / still if still else float("inf")
    joints = {name: e["mae"]["mean"] for name, e in errors["joints"].items() if e["mae"]["mean"] is not None}
    worst = max(joints, key=lambda n: errors["joints"][n]["normalised_mae"]["mean"])
    told = f"mean error {mae:.3g} normalised; worst joint '{worst}' with {joints[worst]:.3g} in its unit"
    if share >= WORTHLESS:
        yield False, f"The policy is no better than an arm that stands still ({share:.0%} of its error): {told}."
    else:
        good = share <= CLEARLY_BETTER
        words = "clearly closer" if good else "only a little closer"
        than = f"than an arm that stands still ({share:.0%} of its error)"
        yield good, f"The policy is {words} to the demonstration {than}: {told}."
    if summary["recordings"] < 2:
        yield True, "One recording: how much recordings differ is not known, so there are no confidence intervals."


def _motion(summary: dict, robot: RobotConfig):
    episodes, steps = summary["episodes"], robot.motion.plan_hz
    seconds = sum(sum(e["state_s"].values()) for e in episodes)
    running = sum(e["state_s"].get("RUNNING", 0.0) for e in episodes)
    idle = 1 - running / seconds if seconds else 1.0
    yield idle <= HOLDING, f"The arm had a chunk to follow {1 - idle:.0%} of the time ({seconds:.0f} s)."
    points = max(1.0, seconds * steps * len(robot.joints))
    shares = {limit: sum(e["clips"][limit] for e in episodes) / points for limit in episodes[0]["clips"]}
    told = ", ".join(f"{limit} {share:.1%}" for limit, share in shares.items())
    yield max(shares.values()) <= CLIPPED, f"Points of the commanded motion that a limit cut: {told}."
    joined = max((e["joins"]["position_step"].get("max", 0.0) for e in episodes), default=0.0)
    raw = max((e["joins"]["position_step_unstitched"].get("max", 0.0) for e in episodes), default=0.0)
    yield joined < 1e-6, f"Steps between chunks of up to {raw:.3g} were joined to at most {joined:.1g} (rad or m)."


def _inputs(summary: dict):
    for episode in summary["episodes"]:
        name = episode["recording"]
        lost = [f"{slot} {c['lost']:.0%}" for slot, c in episode["cameras"].items() if c.get("lost", 0.0) > LOST]
        if lost:
            yield False, f"{name}: frames are missing: {', '.join(lost)}. Record with shared memory, or compressed."
        if "inference_failed" in episode["drops"]:
            times, why = episode["drops"]["inference_failed"], episode["details"]["inference_failed"]
            yield False, f"{name}: the policy failed {times} times: {why}"
        # no_new_image: cameras slower than the ticks are no fault
        used = sum((episode["inferences"], episode["busy_ticks"], episode["drops"].get("no_new_image", 0)))
        if used < USED * episode["ticks"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in episode["drops"].items())
            yield False, f"{name}: {1 - used / episode['ticks']:.0%} of the ticks had nothing to infer from: {reasons}."
    for recording, reason in summary["failed"].items():
        yield False, f"Left out: {reason if recording in reason else f'{recording}: {reason}'}"
