# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How evenly commands arrive: our streamer beside a timer in an rclpy node, idle and on a machine that has work to do.

Both play the same trajectory into the same message at the same rate. Its first joint moves at one unit a second, so
that every command tells the time for which it was computed; a process of its own notes when each arrives.
Under load, a process publishes three cameras, the node that owns the commands subscribes to them, as policy nodes do,
and as many processes as there are cores compute without end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray

from pi_vla_ros.control.realtime import keep_time
from pi_vla_ros.control.trajectory import sample
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.qos import COMMANDS, IMAGES
from pi_vla_ros.ros.stream import Stream, StreamSpec
from pi_vla_ros.types import Trajectory

PUBLISHERS = ("streamer", "timer")
PERCENTILES = ("p50", "p99", "p99.9", "max")
JOINTS, CAMERAS = 14, 3
NAMES = tuple(f"joint{k}" for k in range(JOINTS))
WIDTH, HEIGHT, CAMERA_HZ = 640, 480, 30.0
SETTLE = 2.0  # s before anything counts: discovery, caches
PATIENCE = 30.0  # s for all processes to start
ALL = QoSProfile(depth=4096, reliability=COMMANDS.reliability)  # nothing is lost at the listener's side


@dataclass(frozen=True)
class Case:
    publisher: str  # of PUBLISHERS
    hz: float
    loaded: bool


class TimingError(RuntimeError):
    """A run gave no numbers; the message says why."""


def measure(case: Case, seconds: float) -> dict:
    """One run. Intervals in ms, where the commands were computed and where they arrived. Raises TimingError."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_shared_memory_profile()
    context = multiprocessing.get_context("spawn")
    namespace = f"/bench_control_{os.getpid()}"
    told, heard = context.Queue(), context.Queue()
    stop = context.Event()
    roles: list[tuple] = [
        (_listen, namespace, case.hz, seconds, heard),
        (_command, namespace, case, SETTLE + seconds + PATIENCE, stop, told),
    ]
    if case.loaded:
        roles += [(_film, namespace, stop)] + [(_compute,)] * os.cpu_count()
    with _running(context, roles):
        try:
            commands, refused = heard.get(timeout=PATIENCE + SETTLE + seconds)
        except Exception as error:
            raise TimingError(f"no command at {case.hz:g} Hz arrived; what went wrong stands above") from error
        stop.set()
        of_node = told.get(timeout=PATIENCE)
    return summary(commands[:, 0], commands[:, 1], case.hz, seconds) | of_node | {"not_allowed": refused}


def summary(computed: np.ndarray, arrived: np.ndarray, hz: float, seconds: float) -> dict:
    """computed, arrived: (n,) s, of the commands of `seconds` s."""
    return {
        "commands": len(computed),
        "share_of_ticks": len(computed) / (hz * seconds),
        "computed_ms": _intervals(computed),
        "arrived_ms": _intervals(arrived),
        "underway_ms": _spread(1e3 * (arrived - computed)),
    }


def _intervals(times: np.ndarray) -> dict[str, float]:
    return _spread(1e3 * np.diff(times))


def _spread(values: np.ndarray) -> dict[str, float]:
    return dict(zip(PERCENTILES, [*np.percentile(values, (50, 99, 99.9)).tolist(), float(values.max())], strict=True))


@contextlib.contextmanager
def _running(context, roles: list[tuple]) -> Iterator[None]:
    processes = [context.Process(target=role[0], args=role[1:], daemon=False) for role in roles]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.join(0.5 if process is processes[1] else 0.1)  # the node ends its streamer
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join()


# --- the processes ------------------------------------------------------------------------------------------------


def _listen(namespace: str, hz: float, seconds: float, heard) -> None:
    """Note when commands arrive, and for which time they are."""
    refused = keep_time()  # before DDS starts its threads: they inherit the priority
    rclpy.init(args=[])
    node = Node("listener", namespace=namespace, start_parameter_services=False, enable_rosout=False)
    rows = np.zeros((int((SETTLE + seconds) * hz * 2) + 1000, 2))
    place, count = struct.Struct("<d"), 0

    def take(message: bytes) -> None:
        nonlocal count
        if count < len(rows):
            rows[count] = place.unpack_from(message, len(message) - 8 * JOINTS)[0], time.time()
            count += 1

    node.create_subscription(Float64MultiArray, "commands", take, ALL, raw=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not count:
        executor.spin_once(timeout_sec=0.1)
    end = time.time() + SETTLE + seconds
    while time.time() < end:
        executor.spin_once(timeout_sec=0.1)
    rows = rows[:count]
    rows[:, 0] += np.floor((rows[0, 1] - rows[0, 0]) + 0.5)  # the trajectory begins at a whole second
    heard.put((rows[(rows[:, 0] >= end - seconds) & (rows[:, 0] < end)], refused))
    node.destroy_node()
    rclpy.try_shutdown()


def _command(namespace: str, case: Case, most: float, stop, told) -> None:
    """The node that owns the commands: by its own timer, or through the streamer. Under load it has cameras, too."""
    rclpy.init(args=[])
    node = Node("node", namespace=namespace, start_parameter_services=False, enable_rosout=False)
    seen = 0

    def see(_: Image) -> None:
        nonlocal seen
        seen += 1

    if case.loaded:
        for k in range(CAMERAS):
            node.create_subscription(Image, f"camera_{k}", see, IMAGES)
    trajectory = _clockwork(most)
    found, end = (_by_streamer if case.publisher == "streamer" else _by_timer)(node, case, trajectory)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    begin, seen = time.monotonic(), 0
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    found = found()
    if case.loaded:
        found["images_per_s"] = seen / (time.monotonic() - begin)
    told.put(found)
    end()
    node.destroy_node()
    rclpy.try_shutdown()


def _by_streamer(node: Node, case: Case, trajectory: Trajectory) -> tuple[Callable[[], dict], Callable[[], None]]:
    names = tuple(f"joint{k}" for k in range(JOINTS))
    stream = Stream(StreamSpec("streamer", names, node.resolve_topic_name("commands"), case.hz))
    stream.play(True)
    stream.offer(trajectory, trajectory.last)
    return lambda: {"streamer_says_ms": dict(zip(PERCENTILES, stream.intervals_ms, strict=True))}, stream.close


def _by_timer(node: Node, case: Case, trajectory: Trajectory) -> tuple[Callable[[], dict], Callable[[], None]]:
    publisher = node.create_publisher(Float64MultiArray, "commands", COMMANDS)

    def publish() -> None:
        publisher.publish(Float64MultiArray(data=sample(trajectory, time.time())[0].tolist()))

    timer = node.create_timer(1 / case.hz, publish)
    return dict, partial(node.destroy_timer, timer)


def _clockwork(seconds: float) -> Trajectory:
    """All joints at one unit a second from now on, for a minute more than is needed."""
    knots = int(seconds) + 60
    positions = np.repeat(np.arange(knots, dtype=float)[:, None], JOINTS, axis=1)
    velocities = np.ones_like(positions)
    velocities[-1] = 0.0
    return Trajectory(int(time.time()), 1.0, positions, velocities)


def _film(namespace: str, stop) -> None:
    """Three cameras."""
    rclpy.init(args=[])
    node = Node("cameras", namespace=namespace, start_parameter_services=False, enable_rosout=False)
    publishers = [node.create_publisher(Image, f"camera_{k}", IMAGES) for k in range(CAMERAS)]
    image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    image.data = bytes(3 * WIDTH * HEIGHT)
    frame = serialize_message(image)  # a camera driver in C++ does not make Python objects either

    def shoot() -> None:
        for publisher in publishers:
            publisher.publish(frame)

    node.create_timer(1 / CAMERA_HZ, shoot)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException):
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    node.destroy_node()
    rclpy.try_shutdown()


def _compute() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(100_000))
