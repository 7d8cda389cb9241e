# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Many recordings on many GPUs: one worker per GPU of a Ray cluster. Optional: `pip install ray`.

Every machine of the cluster must see recordings, checkpoint and results under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pi_vla_ros.replay.jobs import POLL, Progress, Stopped, Work, Worker
from pi_vla_ros.replay.question import Question

GRACE = 10.0  # s that a worker gets to remove what is half done


class _Actor:
    """A Worker in a process of its own; `done` and `stop` are called while `attempt` runs."""

    def __init__(self, question: Question):
        self._worker, self._done, self._stopped = Worker(question), 0.0, False

    def attempt(self, recording: Path, folder: Path) -> str | None:
        self._done = 0.0
        return self._worker.attempt(recording, folder, self._note)

    def done(self) -> float:
        return self._done

    def stop(self) -> None:
        self._stopped = True

    def _note(self, done: float) -> None:
        if self._stopped:
            raise Stopped
        self._done = done


def evaluate_on_ray(question: Question, work: Work, jobs: int, progress: Progress) -> Iterator[tuple[int, str | None]]:
    """As `evaluate_all`. $RAY_ADDRESS names a running cluster; without it, Ray starts on this machine."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install ray (or pip install 'pi_vla_ros[ray]')") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    make = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_concurrency=2)(_Actor)
    free = [make.remote(question) for _ in range(min(gpus or jobs, len(work)))]
    actors, waiting, running = list(free), list(enumerate(work)), {}
    try:
        while waiting or running:
            while free and waiting:
                (k, item), actor = waiting.pop(0), free.pop()
                running[actor.attempt.remote(*item)] = k, actor
            for answer in ray.wait(list(running), timeout=POLL)[0]:
                k, actor = running.pop(answer)
                free.append(actor)
                yield k, ray.get(answer)
            asked = {actor.done.remote(): k for k, actor in running.values()}
            for told in ray.wait(list(asked), num_returns=len(asked), timeout=POLL)[0] if asked else ():
                progress(asked[told], ray.get(told))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # ValueError and OSError, as without Ray
    except ray.exceptions.RayError as error:
        raise ValueError(f"a worker of Ray ended by itself ({str(error).splitlines()[0]}); out of memory?") from error
    finally:
        if running:
            ray.wait([actor.stop.remote() for _, actor in running.values()], num_returns=len(running), timeout=GRACE)
            ray.wait(list(running), num_returns=len(running), timeout=GRACE)
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()
