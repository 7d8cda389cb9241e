# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every method on the same chunks, in several processes; the results do not depend on how many."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.motion_bench.chunks import MIND, ChunksError, Latency, demonstration, synthetic
from pi_vla_ros.motion_bench.judge import Judge
from pi_vla_ros.motion_bench.methods import OURS, make
from pi_vla_ros.motion_bench.recorded import Recorded
from pi_vla_ros.robot import RobotConfig

SETTLE = 2.0  # s that do not count: the arm starts from rest
EXCERPT = (3.2, 5.0)  # s that are kept for the picture
POLL = 0.2  # s
TELL = 25  # chunks between two words on progress


@dataclass(frozen=True)
class Question:
    """What is asked. chunks: how many; bag: where they come from, None for synthetic ones; tau: time constant of the
    arm, s; lead: s by which commands run ahead of the policy's time; hz: rate of the commands."""

    robot: RobotConfig
    chunks: int
    bag: Path | None
    latency: Latency
    seed: int
    tau: float
    lead: float
    hz: float


@dataclass(frozen=True)
class Excerpt:
    """A few seconds of one joint. chunks: (times (n,), actions (n,)) of each."""

    joint: str
    times: np.ndarray
    truth: np.ndarray
    commands: np.ndarray
    arm: np.ndarray
    chunks: list[tuple[np.ndarray, np.ndarray]]


def execute(question: Question, name: str, told: Callable[[int], None]) -> tuple[dict, Excerpt]:
    """One method over all chunks. told(chunks that are done). Raises ChunksError."""
    robot, hz = question.robot, question.hz
    if question.bag:
        recorded = Recorded(question.bag, robot)
        source, truth = recorded.arrivals(), recorded.wanted()
    else:
        source = synthetic(robot, question.chunks, question.seed, question.latency)
        truth = demonstration(robot, question.seed)
    method, judge, excerpt = make(name, robot, question.lead), None, _Collector(truth, robot)
    tick = 0
    for done, arrival in enumerate(source):
        if done >= question.chunks:
            break
        until = math.ceil(arrival.time * hz)
        if judge is None:
            judge, tick = Judge(Limits.of(robot), hz, question.tau, until / hz + SETTLE), until
        elif until > tick:
            times = np.arange(tick, until) / hz
            commands, wanted, tick = method.at(times), truth(times), until
            excerpt.add(times, wanted, commands, judge.add(times, commands, wanted))
        method.take(arrival.chunk, arrival.time)
        excerpt.chunk(arrival.chunk)
        if done % TELL == 0:
            told(done)
    if tick < EXCERPT[1] * hz:
        raise ChunksError(f"the chunks cover {tick / hz:.1f} s: at least {EXCERPT[1]} s are needed")
    told(done + 1)
    return judge.report() | method.report(), excerpt.result()


def violations(row: dict) -> int:
    """Of one of our methods: commands, and plans, beyond any limit."""
    return sum(row["commands_beyond_limits"].values()) + sum(row["plans_beyond_limits"].values())


def compare(
    question: Question, names: Sequence[str], jobs: int, progress: Callable[[int], None]
) -> dict[str, tuple[dict, Excerpt]]:
    """progress(chunks that are done, over all methods). Raises ChunksError."""
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", len(names))
    with ProcessPoolExecutor(min(jobs, len(names)), context, _start, (question, done)) as pool:
        futures = {name: pool.submit(_execute, k, name) for k, name in enumerate(names)}
        try:
            waiting = set(futures.values())
            while waiting:
                finished, waiting = wait(waiting, POLL, "FIRST_COMPLETED")
                for future in finished:
                    future.result()
                progress(sum(done))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return {name: future.result() for name, future in futures.items()}


def improvement(rows: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Of our methods: how many times lower the arm's largest jerk is, and the tracking error relative to theirs."""
    found = {}
    for name in (n for n in OURS if n in rows):
        for other in (n for n in ("step", "linear") if n in rows):
            ours, theirs = rows[name]["arm"], rows[other]["arm"]
            found.setdefault(name, {})[f"jerk_max_below_{other}"] = theirs["jerk_max"] / ours["jerk_max"]
            found[name][f"tracking_error_of_{other}"] = ours["tracking_error_rms"] / theirs["tracking_error_rms"]
    return found


class _Collector:
    """Keeps the excerpt, of a joint that moves little enough in it for the chunks to be told apart."""

    def __init__(self, truth, robot: RobotConfig):
        within = truth(np.linspace(*EXCERPT, 100))
        self._joint = int(np.argmin(np.abs(np.ptp(within, axis=0) - 10 * MIND)))
        self._name = robot.joint_names[self._joint]
        self._rows: list[tuple] = []
        self._chunks: list[tuple] = []

    def add(self, times: np.ndarray, *columns: np.ndarray) -> None:
        inside = (times >= EXCERPT[0]) & (times < EXCERPT[1])
        if inside.any():
            self._rows.append((times[inside], *(c[inside, self._joint] for c in columns)))

    def chunk(self, chunk) -> None:
        times = chunk.stamp + chunk.dt * np.arange(len(chunk.actions))
        if times[-1] > EXCERPT[0] and times[0] < EXCERPT[1]:
            self._chunks.append((times, chunk.actions[:, self._joint]))

    def result(self) -> Excerpt:
        times, truth, commands, arm = (np.concatenate(column) for column in zip(*self._rows, strict=True))
        return Excerpt(self._name, times, truth, commands, arm, self._chunks)


_question: Question  # of this process
_done = None


def _start(question: Question, done) -> None:
    global _question, _done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others
    _question, _done = question, done


def _execute(run: int, name: str) -> tuple[dict, Excerpt]:
    def tell(count: int) -> None:
        _done[run] = count

    return execute(_question, name, tell)
