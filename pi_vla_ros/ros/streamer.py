# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The process that publishes commands: plays the trajectory in shared memory at a steady rate.

It keeps time when inference does not. What it plays ends at rest by itself, so a policy node that hangs or dies stops
the arm; orphaned, it holds until the arm rests, then ends.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
import time

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.control.pacer import Intervals, Pacer
from pi_vla_ros.control.player import Player
from pi_vla_ros.control.realtime import keep_time
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.qos import COMMANDS


def main() -> None:
    arguments = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the parent ends us, braked
        signal.signal(number, signal.SIG_IGN)
    use_shared_memory_profile()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(
        arguments.name,
        start_parameter_services=False,
        enable_rosout=False,
        parameter_overrides=[Parameter("use_sim_time", value=arguments.sim_time)],
    )
    if arguments.sim_time:
        _listen_to_clock(node)
    publisher = node.create_publisher(Float64MultiArray, arguments.topic, COMMANDS)
    board = TrajectoryBoard(arguments.joints, arguments.descriptor)
    refused = keep_time()
    if refused:
        node.get_logger().warning(refused)
    clock = node.get_clock()
    now = (lambda: clock.now().nanoseconds * 1e-9) if arguments.sim_time else time.time
    play(board, arguments.rate, arguments.parent, now, lambda values: publisher.publish(Float64MultiArray(data=values)))
    node.destroy_node()
    rclpy.try_shutdown()


def play(board: TrajectoryBoard, hz: float, parent: int, now, publish) -> None:
    """Publish until told to close, or orphaned; in either case until the arm is at rest."""
    pacer, player = Pacer(hz), Player(board)
    intervals = Intervals(keep=math.ceil(10 * hz))
    report = math.ceil(hz / 2)  # ticks between two reports of the intervals
    tick = 0
    while True:
        pacer.wait()
        at = now()
        if player.resting(at) and (board.closing or os.getppid() != parent):
            return
        values = player.command(at)
        if values is None:
            intervals.pause()
        else:
            publish(values.tolist())
            intervals.mark(time.monotonic())
        tick += 1
        board.tick(time.monotonic(), values is not None)
        if tick % report == 0:
            board.report(intervals.percentiles())


def _listen_to_clock(node: Node) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    threading.Thread(target=spin, daemon=True).start()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plays a policy node's trajectory. Started by the node itself.")
    parser.add_argument("--descriptor", type=int, required=True, help="file descriptor of the shared trajectory")
    parser.add_argument("--joints", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="process without which this one ends")
    parser.add_argument("--topic", required=True, help="topic of the commands")
    parser.add_argument("--rate", type=float, required=True, help="Hz")
    parser.add_argument("--name", required=True, help="name of the node")
    parser.add_argument("--sim-time", action="store_true")
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    main()
