# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Chunks as a policy would send them: a smooth demonstration, seen by a policy that changes its mind a little from one
chunk to the next, and that answers after a jittering delay.

As in the policy node, observations are taken at ticks, and there is one inference at a time: a tick that finds the one
before still at work is missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk

HORIZON = 50
# Standard deviations, rad: what a chunk is off at its first action, what more at its last, and from one action to the
# next. The last is what a servo with 4096 counts a turn resolves: demonstrations have it, and so do policies.
MIND, DRIFT, ROUGHNESS = 0.02, 0.04, 0.0005

Truth = Callable[[np.ndarray], np.ndarray]  # times (K,) s -> positions (K, joints)


class ChunksError(ValueError):
    """There are no chunks to compare with; the message says where, and why."""


@dataclass(frozen=True)
class Arrival:
    """A chunk and the time at which it is there, s."""

    chunk: ActionChunk
    time: float


@dataclass(frozen=True)
class Latency:
    """From an observation to its chunk: median s, and the standard deviation of the logarithm."""

    median: float = 0.06
    spread: float = 0.35

    def draw(self, rng: np.random.Generator) -> float:
        return self.median * math.exp(self.spread * rng.standard_normal())


def demonstration(robot: RobotConfig, seed: int) -> Truth:
    """Three sine waves a joint, within half of its limits."""
    rng, limits = np.random.default_rng(seed), Limits.of(robot)
    frequency = rng.uniform(0.4, 2.5, (3, len(robot.joints)))  # rad/s
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    most = [
        (limits.velocity / frequency.sum(0)) / 2,
        (limits.acceleration / (frequency**2).sum(0)) / 2,
        (limits.jerk / (frequency**3).sum(0)) / 2,
        np.minimum(robot.home - limits.low, limits.high - robot.home) / 4,
    ]
    amplitude = np.minimum.reduce(most)
    return lambda times: robot.home + amplitude * np.sin(times[:, None, None] * frequency + phase).sum(1)


def synthetic(robot: RobotConfig, count: int, seed: int, latency: Latency) -> Iterator[Arrival]:
    """`count` chunks in the order of their arrival, one in memory at a time."""
    rng, truth = np.random.default_rng((seed, 1)), demonstration(robot, seed)
    scale = np.minimum(1.0, Limits.of(robot).velocity)  # a gripper in m is off by less than a joint in rad
    dt, tick = 1 / robot.timing.action_hz, 1 / robot.timing.inference_hz
    ahead, share = np.arange(HORIZON) * dt, np.linspace(0, 1, HORIZON)[:, None]
    stamp = 0.0
    for _ in range(count):
        off = MIND * rng.standard_normal(len(scale)) + DRIFT * rng.standard_normal(len(scale)) * share
        rough = ROUGHNESS * rng.standard_normal((HORIZON, len(scale)))
        time = stamp + latency.draw(rng)
        yield Arrival(ActionChunk(truth(stamp + ahead) + scale * (off + rough), stamp, dt), time)
        stamp = math.ceil(time / tick) * tick
