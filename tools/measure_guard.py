#!/usr/bin/env python3
# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the final limiter costs, and how long it takes to catch up when the wall clock is set: `docs/control.md`."""

from __future__ import annotations

import time

import numpy as np

from pi_vla_ros.control import guard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.control.planner import Planner
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

NOW, RATE, PERIOD = 1.76e9, 480, 0.1


def main() -> None:
    robot = load_robot("aloha")  # 14 joints
    planner = Planner(robot)
    limits, joints = planner.limits.kept(planner.step), len(robot.joints)
    ruckig = guard.ruckig
    for means in filter(None, ("ruckig" if ruckig else "", "own")):
        guard.ruckig = ruckig if means == "ruckig" else None
        for step in (0.05, 0.2, 0.5, 1.0, -0.05, -0.2, -0.5, -1.0):
            away, costs, ticks = [], [], []
            for phase in np.linspace(0, 2 * np.pi, 12, endpoint=False):
                took, cost, tick = catch_up(planner, robot, limits, joints, step, phase)
                away.append(took), costs.extend(cost), ticks.append(tick)
            print(
                f"{means:6} {step:+.2f} s: back after {np.median(away):.2f} s, at most {max(away):.2f} s;",
                f"a way takes {np.median(costs) * 1e3:.2f} ms, at most {max(costs) * 1e3:.2f} ms;",
                f"a command without {np.median(ticks) * 1e6:.0f} µs",
            )


def catch_up(planner, robot, limits, joints, step, phase):
    """The clock is set by `step` while the arm follows a sine, a chunk every PERIOD s."""
    plan, due, the_guard, last, ways, ticks = planner.hold(robot.home, NOW), 0.0, Guard(limits), 0.0, [], []
    for at in np.arange(0, 4.0, 1 / RATE):
        now = NOW + at + (step if at > 1.0 else 0.0)
        if at >= due:
            due = at + PERIOD
            ahead = now - NOW + np.arange(50)[:, None] / robot.timing.action_hz
            actions = robot.home + 0.2 * np.sin(4 * ahead + phase + np.arange(joints))
            plan = planner.follow(plan, ActionChunk(actions, now, 1 / robot.timing.action_hz), now, 0.2)
        before, bridge = the_guard.bridged, the_guard._bridge
        begin = time.thread_time()
        the_guard.command(plan.trajectory, now, at)
        took = time.thread_time() - begin
        if the_guard.bridged > before:
            last = at
            if the_guard._bridge is not bridge:
                ways.append(took)
        else:
            ticks.append(took)
    return last - 1.0, ways, float(np.median(ticks))


if __name__ == "__main__":
    main()
