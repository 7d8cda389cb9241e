# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How well chunks become motion: ways of executing the same late, inconsistent chunks, side by side.

The chunks are a smooth demonstration seen by a policy that changes its mind a little from one chunk to the next, and
that answers after a jittering delay. The arm is a first-order actuator: it follows its command with time constant tau.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pi_vla_ros.control.planner import Planner
from pi_vla_ros.control.trajectory import peaks, sample
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk

HORIZON = 50
MIND, SLOPE, ROUGHNESS = 0.02, 0.04, 0.002  # standard deviations: rad a chunk is off, rad/s it drifts, rad per action
EVERY = 1 / 30  # s between two observations
DELAY, JITTER = 0.06, 0.35  # s, and of its logarithm
METHODS = ("step commands at 30 Hz", "linear interpolation", "hold_and_replace", "blend")


@dataclass(frozen=True)
class Arrival:
    """A chunk and the time at which it is there, s."""

    chunk: ActionChunk
    time: float


def demonstration(robot: RobotConfig, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """times (K,) -> positions (K, joints): three sine waves a joint, within half of its limits."""
    rng, limits = np.random.default_rng(seed), Planner(robot).limits
    frequency = rng.uniform(0.4, 2.5, (3, len(robot.joints)))  # rad/s
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    by_speed, by_acceleration = limits.velocity / frequency.sum(0), limits.acceleration / (frequency**2).sum(0)
    room = np.minimum(robot.home - limits.low, limits.high - robot.home)
    amplitude = np.minimum.reduce([0.5 * by_speed, 0.5 * by_acceleration, room / 4])
    return lambda times: robot.home + amplitude * np.sin(times[:, None, None] * frequency + phase).sum(1)


def arrivals(robot: RobotConfig, count: int, seed: int) -> list[Arrival]:
    """`count` chunks in the order of their arrival; one that a later one overtook is dropped."""
    rng, truth = np.random.default_rng(seed + 1), demonstration(robot, seed)
    scale = np.minimum(1.0, Planner(robot).limits.velocity)  # a gripper in m is off by less than a joint in rad
    ahead = np.arange(HORIZON) / robot.timing.action_hz
    found: list[Arrival] = []
    for k in range(count):
        stamp = k * EVERY
        off = MIND * rng.standard_normal(len(scale)) + SLOPE * rng.standard_normal(len(scale)) * ahead[:, None]
        rough = ROUGHNESS * rng.standard_normal((HORIZON, len(scale)))
        chunk = ActionChunk(truth(stamp + ahead) + scale * (off + rough), stamp, 1 / robot.timing.action_hz)
        time = stamp + DELAY * float(np.exp(JITTER * rng.standard_normal()))
        if not found or time > found[-1].time:
            found.append(Arrival(chunk, time))
    return found


def commands(
    method: str, robot: RobotConfig, arrived: Sequence[Arrival], hz: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """(times (K,), positions (K, joints) commanded at `hz`, knots beyond a limit)."""
    times = np.arange(arrived[0].time, arrived[-1].time, 1 / hz)
    newest = np.searchsorted([a.time for a in arrived], times, side="right") - 1
    if method in METHODS[2:]:
        return _planned(method, robot, arrived, times, newest)
    tick = 1 / 30 if method == METHODS[0] else 1 / hz
    at = np.floor(times / tick + 1e-9) * tick
    newest = np.maximum(np.searchsorted([a.time for a in arrived], at, side="right") - 1, 0)
    rows = []
    for t, k in zip(at, newest, strict=True):
        chunk = arrived[k].chunk
        place = np.clip((t - chunk.stamp) / chunk.dt, 0, HORIZON - 1)
        low = min(int(place), HORIZON - 2)
        share = round(place - low) if method == METHODS[0] else place - low
        rows.append(chunk.actions[low] + share * (chunk.actions[low + 1] - chunk.actions[low]))
    positions = np.array(rows)
    limits = Planner(robot).limits
    fast = np.abs(np.diff(positions, axis=0)) * hz > limits.velocity * 1.001
    return times, positions, int(fast.sum())


def _planned(method, robot, arrived, times, newest) -> tuple[np.ndarray, np.ndarray, int]:
    """Our own planner, as the node runs it."""
    motion = dataclasses.replace(robot.motion, stitcher=method, margin=0.01)
    planner = Planner(dataclasses.replace(robot, motion=motion))
    plan = planner.hold(arrived[0].chunk.actions[0], times[0])
    rows, beyond, last = [], 0, -1
    for t, k in zip(times, newest, strict=True):
        if k != last:
            plan, last = planner.follow(plan, arrived[k].chunk, t, motion.blend), k
            low, high, speed, acceleration = peaks(plan.trajectory)
            limits = planner.limits
            beyond += int((low < limits.low - 1e-6).sum() + (high > limits.high + 1e-6).sum())
            beyond += int((speed > limits.velocity * 1.001).sum() + (acceleration > limits.acceleration * 1.001).sum())
        rows.append(sample(plan.trajectory, t)[0])
    return times, np.array(rows), beyond


def judge(times: np.ndarray, positions: np.ndarray, truth: np.ndarray, tau: float) -> dict[str, float]:
    """Numbers over all joints but the first second: steps of the command between two samples, jerk of the arm behind a
    first-order actuator of `tau` s, and its distance to `truth` (K, joints)."""
    step = times[1] - times[0]
    arm, share = np.empty_like(positions), 1 - np.exp(-step / tau)
    arm[0] = positions[0]
    for k in range(1, len(arm)):
        arm[k] = arm[k - 1] + share * (positions[k] - arm[k - 1])
    settled = slice(int(1.0 / step), None)
    velocity = np.diff(positions[settled], axis=0) / step
    jerk = np.diff(arm[settled], n=3, axis=0) / step**3
    return {
        "position_step_max": float(np.abs(np.diff(positions[settled], axis=0)).max()),
        "velocity_step_max": float(np.abs(np.diff(velocity, axis=0)).max()),
        "acceleration_max": float(np.abs(np.diff(velocity, axis=0)).max() / step),
        "jerk_rms": float(np.sqrt((jerk**2).mean())),
        "jerk_max": float(np.abs(jerk).max()),
        "tracking_rms": float(np.sqrt(((arm - truth)[settled] ** 2).mean())),
    }
