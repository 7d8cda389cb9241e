# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The real policy node with a policy that notes down what it is shown, beside a bag of what the node received.

    python observing_node.py BAG LOG --ros-args -p robot:=sim -p checkpoint:=none ...

LOG gets a line per free tick, {"tick": ns}, and per observation: {"stamp", "state", "prompt", "frames"}.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import threading
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from pi_vla_ros.control_loop import ControlLoop
from pi_vla_ros.processing.frames import ordinary
from pi_vla_ros.ros import policy_node, qos
from pi_vla_ros.sim.demo.recorder import Recorder
from pi_vla_ros.types import ActionChunk, Observation

DT, HORIZON = 0.1, 20


def described(observation: Observation) -> dict:
    """All of an observation, exactly, for JSON."""
    return {
        "stamp": observation.stamp,
        "state": observation.state.tolist(),
        "prompt": observation.prompt,
        "frames": {slot: hashlib.sha256(frame.tobytes()).hexdigest() for slot, frame in observation.images.items()},
    }


def wave(observation: Observation) -> ActionChunk:
    """A motion that begins where the arm is."""
    swing = 0.1 * np.sin(np.arange(HORIZON) * DT)[:, None]
    actions = observation.state + swing * np.ones_like(observation.state)
    return ActionChunk(actions, observation.stamp, DT, actions.astype(np.float32), {"all": 0.0})


def main() -> None:
    bag, log = Path(sys.argv[1]), Path(sys.argv[2])
    sys.argv[1:3] = []
    with log.open("w", encoding="utf-8") as file:
        run(bag, file)


def run(bag: Path, log) -> None:
    writing = threading.Lock()  # ticks and inferences have a thread each, and a text file takes one at a time

    def note(row: dict) -> None:
        with writing:
            print(json.dumps(row), file=log)

    class Observes:
        """A Policy that tells what it is shown."""

        model, notes = "pi05", ()
        empty_frame = staticmethod(ordinary)

        def __init__(self, checkpoint, robot, options):
            pass

        def check_prompt(self, prompt):
            pass

        def infer(self, observation, previous=None, delay=0.0):
            note(described(observation))
            return wave(observation)

        def close(self):
            pass

    class Recorded(ControlLoop):
        """Tells its free ticks, records what it is given."""

        def __init__(self, robot, *arguments):
            super().__init__(robot, *arguments)
            self._recorder = Recorder(bag)
            self._images = {
                slot: self._recorder.topic("/" + c.topic.strip("/"), Image, qos.IMAGES)
                for slot, c in robot.cameras.items()
            }
            self._states = self._recorder.topic("/joint_states", JointState, qos.JOINT_STATES)

        def put_image(self, slot, message):
            self._images[slot](self._now(), serialize_message(message))
            super().put_image(slot, message)

        def put_joint_state(self, message):
            self._states(self._now(), serialize_message(message))
            super().put_joint_state(message)

        def tick(self):
            now, clock, missed = self._now(), self._now, self.telemetry.deadline_misses
            self._now = lambda: now  # the tick's time is the one that is written down
            super().tick()
            self._now = clock
            if self.telemetry.deadline_misses == missed:
                note({"tick": round(now * 1e9), "frozen": gc.get_freeze_count()})

        def close(self):
            super().close()
            self._recorder.close()

    policy_node.Policy, policy_node.ControlLoop = Observes, Recorded
    policy_node.main()


if __name__ == "__main__":
    main()
