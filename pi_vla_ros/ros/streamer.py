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

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.control.pacer import Intervals, Pacer
from pi_vla_ros.control.player import Player
from pi_vla_ros.control.realtime import keep_time
from pi_vla_ros.ros.commands import JointCommand, twist_message
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.qos import COMMANDS
from pi_vla_ros.ros.stream import StreamSpec

LINGER = 0.1  # s for which an orphan goes on to say that it rests: a lost message must not leave a twist standing
PATIENCE = 1.0  # s by which a clock that stands still may keep the end waiting
DELIVERY = 0.2  # s for the last message to arrive
LOOKS, AT_ONCE = 5, 5e-6  # at two clocks, until the looks are less than this apart, s


def main() -> None:
    arguments = _arguments()
    spec = StreamSpec.of(arguments.spec)
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the parent ends us, braked
        signal.signal(number, signal.SIG_IGN)
    use_shared_memory_profile()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(
        spec.node,
        start_parameter_services=False,
        enable_rosout=False,
        parameter_overrides=[Parameter("use_sim_time", value=spec.sim_time)],
    )
    if spec.sim_time:
        _listen_to_clock(node)
    output = Output(node, spec)
    board = TrajectoryBoard(len(spec.names), arguments.descriptor)
    for refused in keep_time(spec.cpu):
        node.get_logger().warning(refused)
    clock = node.get_clock()
    now = (lambda: clock.now().nanoseconds * 1e-9) if spec.sim_time else time.time
    steady = now if spec.sim_time else time.monotonic  # simulated time is the arm's only time
    play(board, spec.hz, arguments.parent, now, steady, output, Guard(spec.limits))
    output.close()
    node.destroy_node()
    rclpy.try_shutdown()


class Output:
    """The messages of one command: what the joints are given, and the twist of the axes."""

    def __init__(self, node: Node, spec: StreamSpec):
        joints = [k for k in range(len(spec.names)) if k not in spec.axes]
        self._frame, self._axes = spec.frame, spec.axes
        self._joints, self._twists, self._columns = None, None, np.array(joints, dtype=int)
        self._command = JointCommand(spec.message, [spec.names[k] for k in joints], 1 / spec.hz)
        self.ahead = self._command.ahead
        if joints:
            self._joints = node.create_publisher(self._command.type, spec.topic, COMMANDS)
        if spec.axes:
            self._twists = node.create_publisher(TwistStamped, spec.twist_topic, COMMANDS)

    def send(self, now: float, positions: np.ndarray, velocities: np.ndarray) -> None:
        """positions and velocities (joints,) for time now + ahead."""
        if self._joints:
            self._joints.publish(self._command.message(positions[self._columns], velocities[self._columns]))
        if self._twists:
            twist = {axis: float(velocities[column]) for column, axis in self._axes.items()}
            self._twists.publish(twist_message(self._frame, now, twist))

    def halt(self, now: float) -> None:
        """The last word: a position stands for itself, a twist has to be taken back."""
        if self._twists:
            self._twists.publish(twist_message(self._frame, now, {}))

    def close(self) -> None:
        """Wait until what was sent has arrived."""
        for publisher in (self._joints, self._twists):
            if publisher:
                publisher.wait_for_all_acked(Duration(seconds=DELIVERY))


def play(board: TrajectoryBoard, hz: float, parent: int, now, steady, output: Output, guard: Guard) -> None:
    """Publish until told to close, or orphaned; in either case until the arm is at rest."""
    pacer, player = Pacer(hz), Player(board, guard)
    intervals = Intervals(keep=math.ceil(10 * hz))
    report = math.ceil(hz / 2)  # ticks between two reports of the intervals
    tick, speaking, moving, latest = 0, False, False, None
    while True:
        pacer.wait()
        at, instant = moment(now, steady)
        if board.closing or os.getppid() != parent:
            latest = latest or time.monotonic() + player.remaining(at) + LINGER + PATIENCE
            rests = player.remaining(at - LINGER) == 0 and not moving  # the guard may still be on its way there
            if rests or time.monotonic() > latest:
                break
        command = player.command(at + output.ahead, instant)
        if command is not None:
            output.send(at, *command)
            intervals.mark(time.monotonic())
        elif speaking:
            output.halt(at)
            intervals.pause()
        speaking = command is not None
        moving = speaking and bool(command[1].any())
        tick += 1
        board.tick(time.monotonic(), speaking, guard.bridged)
        if tick % report == 0:
            board.report(intervals.percentiles())
    if speaking:
        output.halt(at)


def moment(now, steady) -> tuple[float, float]:
    """What two clocks show at one moment, s. A process that is put aside between two looks would see one clock jump
    against the other, and the final limiter would take it for a clock that was set."""
    apart, seen = math.inf, (0.0, 0.0)
    for _ in range(LOOKS):
        before, at, after = steady(), now(), steady()
        if after - before < apart:
            apart, seen = after - before, (at, (before + after) / 2)
        if apart <= AT_ONCE:
            break
    return seen


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
    parser.add_argument("--parent", type=int, required=True, help="process without which this one ends")
    parser.add_argument("--spec", required=True, help="what is published: StreamSpec, as JSON")
    return parser.parse_args(sys.argv[1:])


if __name__ == "__main__":
    main()
