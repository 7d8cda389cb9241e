# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A bag of any length with three raw cameras, for the robot 'sim': what memory and time of a replay are measured with.

python test/long_bag.py /tmp/hour --minutes 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from replay_rig import BEGIN, SLOTS, TYPES, header, joint_state, motion, trajectory
from rosbags.rosbag2 import StoragePlugin, Writer

from pi_vla_ros.robot import load_robot

HEIGHT, WIDTH = 72, 96
CAMERA_HZ, STATE_HZ, COMMAND_HZ = 10, 50, 10
IMAGE, STATE, COMMAND = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/JointState",
    "trajectory_msgs/msg/JointTrajectory",
)


def write_long_bag(path: Path, minutes: float, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Raw frames of noise, 62 kB a tenth of a second; nothing is kept in memory."""
    names, noise = load_robot("sim").joint_names, np.random.default_rng(0).integers(0, 256, 2 * HEIGHT * WIDTH * 3)
    noise = noise.astype(np.uint8)
    with Writer(path, version=9, storage_plugin=storage) as writer:
        images = [writer.add_connection(f"/cameras/{s}/image_raw", IMAGE, typestore=TYPES) for s in SLOTS]
        states = writer.add_connection("/joint_states", STATE, typestore=TYPES)
        commands = writer.add_connection("/joint_trajectory", COMMAND, typestore=TYPES)

        def write(connection, after, message):
            writer.write(connection, after, TYPES.serialize_cdr(message, connection.msgtype))

        for tick in range(round(minutes * 60 * STATE_HZ)):
            at, time = BEGIN + tick * 10**9 // STATE_HZ, tick / STATE_HZ
            if tick % (STATE_HZ // CAMERA_HZ) == 0:
                for connection in images:
                    first = 7 * tick % (HEIGHT * WIDTH * 3)
                    pixels = noise[first : first + HEIGHT * WIDTH * 3]
                    write(connection, at, TYPES.types[IMAGE](header(at), HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, pixels))
            write(states, at + 1, joint_state(at, motion(time - 0.1), names))
            if tick % (STATE_HZ // COMMAND_HZ) == 0:
                write(commands, at + 2, trajectory(at, motion(time + 1 / COMMAND_HZ), names, 10**9 // COMMAND_HZ))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    write_long_bag(arguments.out, arguments.minutes)
