# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Many recordings, one after the other or in several processes; the results do not depend on which."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import numpy as np
import torch

from pi_vla_ros.checkpoint import load_checkpoint
from pi_vla_ros.checkpoint.fit import mismatches
from pi_vla_ros.policy import Policy, PolicyOptions
from pi_vla_ros.replay import store
from pi_vla_ros.replay.episode import Evaluation
from pi_vla_ros.replay.opening import open_source
from pi_vla_ros.replay.prediction_bag import PredictionBag
from pi_vla_ros.replay.question import Question
from pi_vla_ros.replay.source import SourceError
from pi_vla_ros.robot import RobotConfig

Progress = Callable[[int, float], None]  # (recording's index, s of it that are done)
Work = list[tuple[Path, Path]]  # (recording, folder of its results)
POLL = 0.2  # s


class Worker:
    """A loaded policy that evaluates recordings."""

    def __init__(self, question: Question):
        """Raises CheckpointError, PolicyError and the like (ValueErrors), for a person to read."""
        self._question = question
        self.policy = Policy(question.checkpoint, question.robot, PolicyOptions(**question.policy))
        self._scale = normalised_scale(load_checkpoint(question.checkpoint), question.robot)

    @property
    def scale(self) -> np.ndarray:
        """(joints,) normalised units per robot unit."""
        return self._scale

    def evaluate(self, recording: Path, folder: Path, progress: Callable[[float], None]) -> None:
        """Leaves `folder` complete, or not at all. Raises SourceError or OSError."""
        q, source = self._question, open_source(recording, self._question)
        with store.draft(folder) as place, _prediction_bag(q, place) as bag:
            evaluation = Evaluation(source, q.robot, self.policy, self._scale, q.prompt, [q.delay, *q.delays], bag)
            store.save(place, evaluation.run(progress), 1e3 / q.robot.timing.inference_hz)

    def attempt(self, recording: Path, folder: Path, progress: Callable[[float], None]) -> str | None:
        """As `evaluate`, but what is wrong with the recording is returned. Raises OSError."""
        try:
            self.evaluate(recording, folder, progress)
        except SourceError as error:
            return str(error)
        return None

    def close(self) -> None:
        self.policy.close()


def _prediction_bag(question: Question, place: Path) -> AbstractContextManager[PredictionBag | None]:
    return closing(PredictionBag(place / store.PREDICTIONS, question.robot)) if question.mcap else nullcontext()


def normalised_scale(checkpoint, robot: RobotConfig) -> np.ndarray:
    """(joints,): normalised units of the checkpoint's actions per robot unit."""
    transform, joints = checkpoint.normalization.action, len(robot.joints)
    slope = transform.forward(np.ones(joints)) - transform.forward(np.zeros(joints))
    return np.abs(slope / np.array([j.action.scale for j in robot.joints]))


def evaluate_all(
    question: Question, work: Work, jobs: int, progress: Progress, on_ray: bool = False
) -> Iterator[tuple[int, str | None]]:
    """Yields (index, None or what is wrong with the recording) as they are done.

    jobs: processes, which share the GPUs; on_ray: as many as the Ray cluster has GPUs, without any: `jobs`. Raises
    ValueError when the checkpoint cannot be used, OSError when nothing can be written any more.
    """
    if not on_ray and (jobs == 1 or len(work) <= 1):
        worker = Worker(question)
        try:
            for k, (recording, folder) in enumerate(work):
                yield k, worker.attempt(recording, folder, lambda done, k=k: progress(k, done))
        finally:
            worker.close()
        return
    wrong = mismatches(load_checkpoint(question.checkpoint), question.robot)  # told once, not by every process
    if wrong:
        raise ValueError("; ".join(wrong))
    if on_ray:
        from pi_vla_ros.replay.on_ray import evaluate_on_ray

        yield from evaluate_on_ray(question, work, jobs, progress)
    else:
        yield from _evaluate_in_processes(question, work, jobs, progress)


def _evaluate_in_processes(question: Question, work: Work, jobs: int, progress: Progress):
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    told, places, stop = context.Queue(), context.Queue(), context.Event()
    for k in range(jobs):
        places.put(gpu_of(k, dict(os.environ), torch.cuda.device_count()))
    with ProcessPoolExecutor(min(jobs, len(work)), context, _start, (question, told, places, stop)) as pool:
        futures = {pool.submit(_evaluate, k, *item): k for k, item in enumerate(work)}
        try:
            while futures:
                done, _ = wait(futures, POLL, "FIRST_COMPLETED")
                _drain(told, progress)
                for future in done:
                    yield futures.pop(future), future.result()
        except BrokenExecutor as error:
            raise ValueError("a process ended by itself; out of memory? Fewer --jobs may help") from error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _drain(told, progress: Progress) -> None:
    try:
        while True:
            progress(*told.get_nowait())
    except queue.Empty:
        pass


_worker: Worker | None = None  # of this process
_told = _stop = None


def gpu_of(process: int, environment: dict[str, str], count: int) -> str | None:
    """CUDA_VISIBLE_DEVICES of a process, so that they share `count` GPUs evenly; None without any."""
    given = [d for d in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if d] or [str(k) for k in range(count)]
    return given[process % count] if count else None


class Stopped(Exception):
    """The first process was interrupted: what is half done is dropped."""


def _start(question: Question, told, places, stop) -> None:
    global _worker, _told, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others
    gpu = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it when it is first used
    _worker, _told, _stop = Worker(question), told, stop


def _evaluate(k: int, recording: Path, folder: Path) -> str | None:
    def tell(done: float) -> None:
        if _stop.is_set():
            raise Stopped
        _told.put((k, done))

    return _worker.attempt(recording, folder, tell)
