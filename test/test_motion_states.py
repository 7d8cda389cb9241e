# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""docs/motion.md and the controller name the same edges: each is taken in a test of its own, and no other is taken in
whatever order things happen."""

import re
from pathlib import Path

import numpy as np
import pytest

from pi_vla_ros.control.motion import MotionController, State
from pi_vla_ros.robot import load_robot
from pi_vla_ros.types import ActionChunk

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "motion.md").read_text(encoding="utf-8")
ROBOT = load_robot("sim")
TICK = 1 / 30


class Rig:
    """A motion controller on a clock of its own; what it sends arrives, unless `late`."""

    def __init__(self):
        self.now, self.late = 100.0, False
        self.motion = MotionController(ROBOT, lambda plan: not self.late)

    def start(self):
        self.motion.start(ROBOT.home, self.now)

    def chunk(self, away=0.4, age=0.05):
        """A motion away from home and on."""
        ramp = np.linspace(0, away, 50)[:, None] * np.sign([1, 1, 1, 1, 1, 1, 1, 0])
        return self.motion.chunk(ActionChunk(ROBOT.home + ramp, self.now - age, 0.1), lambda: self.now)

    def wait(self, seconds):
        self.now += seconds
        self.motion.update(self.now)

    def enable(self, data):
        self.motion.enable(data, self.now)

    def estop(self, data):
        return self.motion.estop(data, self.now)

    def refuse(self, late):
        """Let the outputs take no plan."""
        self.late = late

    def silence(self):
        self.motion.stopped(self.now)

    def rest(self):
        """Until the trajectory under way has ended."""
        self.now = max(self.now, self.motion.trajectory.end)
        self.motion.update(self.now)

    # --- from nothing to a state

    def inactive(self): ...

    def holding(self):
        self.start()

    def running(self):
        self.start()
        self.wait(0.05)
        assert self.chunk() is None
        for _ in range(10):
            self.wait(TICK)
            assert self.chunk() is None

    def ending(self):
        self.running()
        while self.motion.state(self.now) is State.RUNNING:
            self.wait(1e-3)

    def stopped(self):
        self.running()
        self.enable(False)

    def estopped(self):
        self.running()
        self.estop(True)


EDGES = {
    "INACTIVE -> HOLDING": lambda r: (r.inactive(), r.start()),
    "INACTIVE -> STOPPED": lambda r: (r.inactive(), r.enable(False), r.start()),
    "INACTIVE -> ESTOP": lambda r: (r.inactive(), r.estop(True)),
    "HOLDING -> RUNNING": lambda r: (r.holding(), r.wait(0.05), r.chunk()),
    "HOLDING -> STOPPED": lambda r: (r.holding(), r.enable(False)),
    "HOLDING -> ESTOP": lambda r: (r.holding(), r.estop(True)),
    "HOLDING -> INACTIVE": lambda r: (r.holding(), r.silence()),
    "RUNNING -> ENDING": lambda r: r.ending(),
    "RUNNING -> HOLDING": lambda r: (r.running(), r.rest()),
    "RUNNING -> STOPPED": lambda r: (r.running(), r.enable(False)),
    "RUNNING -> ESTOP": lambda r: (r.running(), r.estop(True)),
    "RUNNING -> INACTIVE": lambda r: (r.running(), r.silence()),
    "ENDING -> RUNNING": lambda r: (r.ending(), r.chunk()),
    "ENDING -> HOLDING": lambda r: (r.ending(), r.rest()),
    "ENDING -> STOPPED": lambda r: (r.ending(), r.enable(False)),
    "ENDING -> ESTOP": lambda r: (r.ending(), r.estop(True)),
    "ENDING -> INACTIVE": lambda r: (r.ending(), r.silence()),
    "STOPPED -> HOLDING": lambda r: (r.stopped(), r.rest(), r.enable(True)),
    "STOPPED -> ENDING": lambda r: (r.stopped(), r.wait(ROBOT.motion.margin + 0.02), r.enable(True)),
    "STOPPED -> RUNNING": lambda r: (r.running(), r.refuse(True), r.enable(False), r.refuse(False), r.enable(True)),
    "STOPPED -> ESTOP": lambda r: (r.stopped(), r.estop(True)),
    "STOPPED -> INACTIVE": lambda r: (r.stopped(), r.rest(), r.silence()),
    "ESTOP -> STOPPED": lambda r: (r.estopped(), r.estop(False)),
    "ESTOP -> INACTIVE": lambda r: (r.estopped(), r.rest(), r.silence(), r.estop(False)),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edge(edge):
    """The last transition is this edge; what is commanded from there on ends at rest."""
    rig = Rig()
    EDGES[edge](rig)
    assert rig.motion.counters.transitions[-1][1] == edge
    assert rig.motion.update(rig.now).name == edge.split(" -> ")[1]
    trajectory = rig.motion.trajectory
    if edge.endswith("INACTIVE") or edge == "INACTIVE -> ESTOP":
        assert trajectory is None
        return
    assert (trajectory.velocities[-1] == 0).all()
    if edge.split(" -> ")[1] in ("STOPPED", "ESTOP") and not edge.startswith("ESTOP"):
        slowest = max(joint.stopping_time for joint in ROBOT.joints)
        assert trajectory.end <= rig.now + ROBOT.motion.margin + slowest + 0.1
        assert rig.chunk(age=0.0) in ("disabled", "estop")
    if edge == "STOPPED -> ENDING":
        assert rig.chunk(age=0.0) == "stopping"


def test_the_page_names_the_edges_that_are_tested():
    drawn = {f"{a} -> {b}" for a, b in re.findall(r"^ +(\w+) --> (\w+)$", PAGE, re.MULTILINE)}
    described = re.findall(r"^\| (\w+ -> \w+) \|", PAGE, re.MULTILINE)
    assert drawn == set(described) == set(EDGES) and len(described) == len(EDGES)
    assert set(re.findall(r"^\| ([A-Z]+) \|", PAGE, re.MULTILINE)) == {state.name for state in State}


def test_no_other_edge_is_taken_whatever_happens():
    """Random lives: the controller leaves no state on a way that the page does not name, and takes most of them."""
    rng, taken = np.random.default_rng(0), set()
    for _ in range(60):
        rig = Rig()
        for _ in range(60):
            rig.late = rng.random() < 0.1
            event = rng.choice(["start", "chunk", "tick", "long", "enable", "disable", "estop", "release", "finish",
                                "silence"], p=[0.12, 0.3, 0.2, 0.1, 0.1, 0.05, 0.03, 0.05, 0.03, 0.02])  # fmt: skip
            if event == "start" and rig.motion.trajectory is None:
                rig.start()
            elif event == "chunk":
                rig.chunk(away=rng.choice([0.0, 0.4]), age=rng.uniform(0, 1))
            elif event in ("tick", "long"):
                rig.wait(rng.uniform(0, TICK if event == "tick" else 1.5))
            elif event in ("enable", "disable"):
                rig.enable(event == "enable")
            elif event in ("estop", "release"):
                rig.estop(event == "estop")
            elif event == "finish":
                rig.motion.finish(rig.now)
            elif event == "silence":
                rig.silence()
        taken |= {edge for _, edge in rig.motion.counters.transitions}
    assert taken <= set(EDGES), taken - set(EDGES)
    assert len(taken) >= 20
