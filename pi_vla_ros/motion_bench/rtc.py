# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The policy's side of real-time chunking, without a policy: what an ideal one would make of a chunk.

A policy that is sure of its chunk, guided through the flow, ends at

    chunk + pull · weights · (previous − chunk),    pull = strength of the last flow step · its length,

and one trained for it repeats the committed actions to the letter, then goes over to its own. Real policies differ;
what this shows is what the joins are like when they agree.
"""

from __future__ import annotations

import math

import numpy as np

from pi_vla_ros.model.rtc_schedule import schedule_weights, strength
from pi_vla_ros.robot import Motion
from pi_vla_ros.types import ActionChunk

FLOW_STEPS = 10


def agree(chunk: ActionChunk, previous: ActionChunk, delay: float, motion: Motion) -> ActionChunk:
    """`chunk`, pulled towards `previous`; delay: s until the chunk takes over."""
    count = len(chunk.actions)
    ahead = (chunk.stamp - previous.stamp) / chunk.dt + np.arange(count)
    ahead = ahead[(ahead >= 0) & (ahead <= len(previous.actions) - 1)]
    left = np.stack([np.interp(ahead, np.arange(len(previous.actions)), c) for c in previous.actions.T], axis=1)
    late, end = math.ceil(delay / chunk.dt), min(motion.rtc_horizon, len(left))
    if motion.stitcher == "rtc_trained":
        pull = schedule_weights("linear", late, max(end, min(2 * late, len(left))), count)
    else:
        most = min(strength(1 / FLOW_STEPS), motion.rtc_max_guidance) / FLOW_STEPS
        pull = most * schedule_weights(motion.rtc_schedule, late, end, count)
    actions = chunk.actions.copy()
    actions[: len(left)] += pull[: len(left), None] * (left - actions[: len(left)])
    return ActionChunk(actions, chunk.stamp, chunk.dt)
