# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The control loop without ROS: what it hands to the inference for real-time chunking."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from pi_vla_ros.control_loop import DELAYS, ControlLoop
from pi_vla_ros.types import ActionChunk


class Inference:
    """Only remembers what it was asked."""

    busy = False

    def submit(self, snapshot, prompt, previous, delay):
        self.previous, self.delay = previous, delay


class Outputs:
    def open(self): ...
    def silence(self): ...

    def send(self, plan):
        return True


def loop_at(robot, clock, inference):
    loop = ControlLoop(
        robot, None, Outputs(), lambda: clock.now, lambda *_: None, lambda *_: None, lambda *_: inference
    )
    loop.prompt = "wave"
    loop.buffer = SimpleNamespace(
        take=lambda now: SimpleNamespace(skew=0.0), newest_state=lambda now: (now, robot.home), clear=lambda: None
    )
    return loop


@pytest.mark.parametrize("percentile", [0.0, 50.0, 100.0])
def test_the_expected_delay_is_a_percentile_of_the_last_ones(percentile, sim_robot):
    motion = dataclasses.replace(sim_robot.motion, margin=0.03, rtc_delay_percentile=percentile)
    robot = dataclasses.replace(sim_robot, motion=motion)
    clock, inference = SimpleNamespace(now=100.0), Inference()
    loop = loop_at(robot, clock, inference)
    loop.tick()
    assert inference.previous is None and inference.delay == 0.0  # nothing measured yet
    took = np.random.default_rng(0).uniform(0.01, 0.2, DELAYS + 5)
    for seconds in took:
        clock.now += 0.25
        loop.tick()
        chunk = ActionChunk(np.tile(robot.home, (50, 1)), float(clock.now - seconds), 0.1)
        loop._on_chunk(chunk, "wave")
    loop.tick()
    assert inference.previous is chunk
    assert inference.delay == pytest.approx(np.percentile(took[-DELAYS:] + 0.03, percentile), abs=1e-9)
