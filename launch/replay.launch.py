# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The real policy node under a recording: ros2 launch pi_vla_ros replay.launch.py robot:=aloha bag:=/data/episode_12"""

from pi_vla_ros.ros.launching import replay_launch


def generate_launch_description():
    return replay_launch()
