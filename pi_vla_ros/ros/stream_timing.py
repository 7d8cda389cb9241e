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
import math
import multiprocessing
import os
import queue
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray

from pi_vla_ros.control.limiter import Limits
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
PATIENCE = 60.0  # s for all processes to start, on a machine that is busy
ALL = QoSProfile(depth=4096, reliability=COMMANDS.reliability)  # nothing is lost at the listener's side


@dataclass(frozen=True)
class Case:
    publisher: str  # of PUBLISHERS
    hz: float
    loaded: bool


class TimingError(RuntimeError):
    """A run gave no numbers; the message says why."""


def measure(case: Case, seconds: float) -> dict:
    """One run. Intervals in ms, where the commands were computed and where they arrived; `stolen`: the share of time
    in which a hypervisor gave our cores to others, None where Linux does not tell. Raises TimingError."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_shared_memory_profile()
    context = multiprocessing.get_context("spawn")
    namespace = f"/bench_control_{os.getpid()}"
    told, heard = context.Queue(), context.Queue()
    stop = context.RawValue("b", 0)  # no lock: a process that keeps time must not wait for one that does not
    roles = [(_listen, case.hz, seconds, heard), (_command, case, SETTLE + seconds + PATIENCE, told)]
    if case.loaded:
        roles += [(_film,)] + [(_compute,)] * (os.cpu_count() or 1)
    before = _processor_times()
    with _running(context, namespace, stop, roles):
        try:
            commands, refused = heard.get(timeout=PATIENCE + SETTLE + seconds)
            stop.value = 1
            of_node = told.get(timeout=PATIENCE)
        except queue.Empty as error:
            raise TimingError(f"no command at {case.hz:g} Hz arrived; what went wrong stands above") from error
    said = {"not_allowed": refused, "stolen": _stolen(before, _processor_times())}
    return summary(commands[:, 0], commands[:, 1], case.hz, seconds) | of_node | said


def _processor_times() -> np.ndarray | None:
    """Of all cores, in ticks: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5))."""
    try:
        return np.array(Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9], dtype=float)
    except OSError:
        return None


def _stolen(before: np.ndarray | None, after: np.ndarray | None) -> float | None:
    if before is None or after is None or len(after) < 8:
        return None
    passed = after - before
    return float(passed[7] / passed.sum()) if passed.sum() else 0.0


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
def _running(context, namespace: str, stop, roles: list[tuple]) -> Iterator[None]:
    """Processes for the roles; at the end all are told to stop, and made to."""
    processes = [context.Process(target=_role, args=(namespace, stop, *role)) for role in roles]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.value = 1
        for process in processes:
            process.join(PATIENCE)
            process.terminate()
            process.join()


# --- the processes ------------------------------------------------------------------------------------------------


def _role(namespace: str, stop, role: Callable, *arguments) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others
    first = os.getppid()

    def over() -> bool:
        return bool(stop.value) or os.getppid() != first

    role(namespace, over, *arguments)


@contextlib.contextmanager
def _node(namespace: str, name: str) -> Iterator[Node]:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(name, namespace=namespace, start_parameter_services=False, enable_rosout=False)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _spin(node: Node, over: Callable[[], bool]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not over():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()


def _listen(namespace: str, over, hz: float, seconds: float, heard) -> None:
    """Note when commands arrive, and for which time they are."""
    refused = keep_time()  # before DDS starts its threads: they inherit the priority
    rows = np.zeros((int((SETTLE + seconds) * hz * 2) + 1000, 2))
    place, count, end = struct.Struct("<d"), 0, math.inf

    def take(message: bytes) -> None:
        nonlocal count, end
        now = time.time()
        if count == 0:
            end = now + SETTLE + seconds
        if count < len(rows):
            rows[count] = place.unpack_from(message, len(message) - 8 * JOINTS)[0], now
            count += 1

    with _node(namespace, "listener") as node:
        node.create_subscription(Float64MultiArray, "commands", take, ALL, raw=True)
        _spin(node, lambda: time.time() > end or over())
    rows = rows[:count]
    rows[:, 0] += np.round(rows[:1, 1] - rows[:1, 0])  # the trajectory begins at a whole second
    heard.put((rows[(rows[:, 0] >= end - seconds) & (rows[:, 0] < end)], refused))


def _command(namespace: str, over, case: Case, most: float, told) -> None:
    """The node that owns the commands: by its own timer, or through the streamer. Under load it has cameras, too."""
    seen = 0

    def see(_: Image) -> None:
        nonlocal seen
        seen += 1

    with _node(namespace, "node") as node:
        if case.loaded:
            for k in range(CAMERAS):
                node.create_subscription(Image, f"camera_{k}", see, IMAGES)
        found, end = (_by_streamer if case.publisher == "streamer" else _by_timer)(node, case, _clockwork(most))
        begin, seen = time.monotonic(), 0
        _spin(node, over)
        said = found() | ({"images_per_s": seen / (time.monotonic() - begin)} if case.loaded else {})
        end()
    told.put(said)


def _by_streamer(node: Node, case: Case, trajectory: Trajectory) -> tuple[Callable[[], dict], Callable[[], None]]:
    names = tuple(f"joint{k}" for k in range(JOINTS))
    limits = Limits(*(np.full(JOINTS, limit) for limit in (-1e9, 1e9, 2.0, 8.0, 160.0)))
    stream = Stream(StreamSpec("streamer", names, node.resolve_topic_name("commands"), case.hz, limits))
    stream.play(True)
    stream.offer(trajectory, trajectory.last)

    def end() -> None:
        stream.play(False)  # nothing moves here: it need not be at rest first
        stream.close()

    def say() -> dict:
        """What the streamer measures of itself; its longest interval would be that of the start."""
        return {"streamer_says_ms": dict(zip(PERCENTILES[:3], stream.intervals_ms, strict=False))}

    return say, end


def _by_timer(node: Node, case: Case, trajectory: Trajectory) -> tuple[Callable[[], dict], Callable[[], None]]:
    publisher = node.create_publisher(Float64MultiArray, "commands", COMMANDS)

    def publish() -> None:
        publisher.publish(Float64MultiArray(data=sample(trajectory, time.time())[0].tolist()))

    timer = node.create_timer(1 / case.hz, publish)
    return dict, timer.cancel


def _clockwork(seconds: float) -> Trajectory:
    """All joints at one unit a second from now on, for at least `seconds`."""
    knots = int(seconds) + 2
    positions = np.repeat(np.arange(knots, dtype=float)[:, None], JOINTS, axis=1)
    velocities = np.ones_like(positions)
    velocities[-1] = 0.0
    return Trajectory(int(time.time()), 1.0, positions, velocities)


def _film(namespace: str, over) -> None:
    """Three cameras."""
    image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    image.data = bytes(3 * WIDTH * HEIGHT)
    frame = serialize_message(image)  # a camera driver in C++ does not make Python objects either
    with _node(namespace, "cameras") as node:
        publishers = [node.create_publisher(Image, f"camera_{k}", IMAGES) for k in range(CAMERAS)]

        def shoot() -> None:
            for publisher in publishers:
                publisher.publish(frame)

        node.create_timer(1 / CAMERA_HZ, shoot)
        _spin(node, over)


def _compute(namespace: str, over) -> None:
    """A core that has other things to do."""
    while not over():
        sum(range(100_000))
