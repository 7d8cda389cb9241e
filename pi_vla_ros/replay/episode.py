# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One recording through the twin: everything that is measured of it."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from pi_vla_ros.inference import Infers
from pi_vla_ros.observation_buffer import Snapshot
from pi_vla_ros.replay.errors import Moment, PredictionErrors, Sums
from pi_vla_ros.replay.lane import Measured
from pi_vla_ros.replay.metrics import number, spread, stream_summary
from pi_vla_ros.replay.prediction_bag import PredictionBag
from pi_vla_ros.replay.recorded import RecordedCommands
from pi_vla_ros.replay.source import NANO, Source, SourceError
from pi_vla_ros.replay.thinned import Thinned
from pi_vla_ros.replay.twin import Twin
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Observation, seconds

THUMBNAIL = 320  # pixels wide
CURVE = 20_000  # ticks kept for the curves
LIMITS = ("position", "velocity", "acceleration", "jerk")  # in the order of the counters


@dataclass(frozen=True)
class Episode:
    """What came out. summary and sums depend on the recording and the policy only; timing on this machine.

    curves: arrays over ticks: time (N,) s since the start, commanded and recorded (N, joints); of the chunks shown:
            chunk_stamp (K,) s since the start, chunk_actions (K, H, joints).
    timing: arrays over inferences: at (N,) s since the start, total (N,) ms, and each stage by name.
    """

    summary: dict
    sums: Sums
    curves: dict[str, np.ndarray]
    timing: dict[str, np.ndarray]
    worst: list[Moment]


def _numbers() -> array:
    """8 bytes each: there are many in an hour."""
    return array("d")


@dataclass
class _Log:
    skew_ms: array = field(default_factory=_numbers)
    stamps: dict[str, array] = field(default_factory=lambda: defaultdict(_numbers))
    received: dict[str, array] = field(default_factory=lambda: defaultdict(_numbers))
    at: array = field(default_factory=_numbers)
    total_ms: array = field(default_factory=_numbers)
    stage_ms: dict[str, array] = field(default_factory=lambda: defaultdict(_numbers))
    ticks: deque = field(default_factory=deque)  # (time, commanded by each lane) not yet compared
    curve: Thinned = field(default_factory=lambda: Thinned(CURVE))  # (time, commanded, recorded)


class Evaluation:
    """Feeds one source to a twin, tick by tick, and measures."""

    def __init__(
        self,
        source: Source,
        robot: RobotConfig,
        policy: Infers,
        scale: np.ndarray,
        prompt: str,
        delays: list[float],
        bag: PredictionBag | None = None,
    ):
        """delays: s; the first is the node's, the others show what another would do. scale: see PredictionErrors.
        bag: gets every prediction too."""
        self._source, self._robot, self._delays = source, robot, delays
        self._begin, self._log = source.start * 1e-9, _Log()
        self._recorded = RecordedCommands(source.commands, robot.joint_names, robot.replay.shift, source.name)
        self._errors = PredictionErrors(robot, self._recorded, scale)
        self._twin = Twin(robot, policy, prompt, [round(d * NANO) for d in delays], source.start, self._inferred)
        self._strayed = np.zeros((len(delays), 2))  # commanded against recorded: normalised sum, count
        self._scale, self._bag = scale, bag

    def run(self, progress: Callable[[float], None]) -> Episode:
        """progress(s of the recording that are done). Raises SourceError, naming recording and topic."""
        commands = 0
        for event in self._source.events():
            self._tick_until(event.received, progress)  # what came by a tick's time is seen by it, as by an executor
            if event.kind == "command":
                self._recorded.put(event.message, event.received * 1e-9)
                commands += 1
                continue
            if event.kind == "image":
                self._note(event.slot, event.message.header.stamp, event.received)
            self._twin.put(event)
        self._tick_until(self._source.end, progress)
        if not commands:
            raise SourceError(f"{self._source.name}: no commands ({self._source.commands}) in the replayed part")
        self._recorded.finish(self._source.end * 1e-9)
        self._compare(everything=True)
        for lane in self._twin.lanes:
            lane.finish(self._source.end * 1e-9)
        if not self._errors.compared:
            raise SourceError(f"{self._source.name}: {self._why_nothing()}")
        return self._episode()

    def _tick_until(self, now: int, progress: Callable[[float], None]) -> None:
        """The timer's ticks before `now` ns."""
        hz = self._robot.timing.inference_hz
        while (due := self._source.start + round(self._twin.telemetry.ticks * NANO / hz)) < now:
            self._due = due
            self._log.ticks.append((due * 1e-9, self._twin.tick(due)))
            self._recorded.passed(due * 1e-9)
            self._compare()
            if self._twin.telemetry.ticks % 30 == 0:
                progress((due - self._source.start) / NANO)

    def _note(self, slot: str, stamp, received: int) -> None:
        self._log.stamps[slot].append(seconds(stamp))
        self._log.received[slot].append(received * 1e-9)

    def _inferred(self, observation: Observation, chunk: ActionChunk, snapshot: Snapshot, ms: float) -> None:
        log = self._log
        log.skew_ms.append(1e3 * snapshot.skew)
        log.at.append(chunk.stamp - self._begin)
        log.total_ms.append(ms)
        for stage, took in chunk.stage_ms.items():
            log.stage_ms[stage].append(took)
        pictures = {slot: thumbnail(image) for slot, image in observation.images.items()}
        self._errors.add(chunk, self._robot.positions(observation.state), pictures)
        if self._bag:
            self._bag.predicted(chunk, self._due)

    def _compare(self, everything: bool = False) -> None:
        needed = self._errors.resolve(everything)
        ticks = self._log.ticks
        while ticks and (everything or ticks[0][0] <= self._recorded.known):
            time, commanded = ticks.popleft()
            recorded = self._recorded.at(np.array([time]))[0]
            for k, positions in enumerate(commanded):
                if positions is not None and np.isfinite(recorded).all():
                    self._strayed[k] += (np.abs(positions - recorded) * self._scale).mean(), 1
            if commanded[0] is not None:
                self._log.curve.add((time - self._begin, commanded[0], recorded))
                if self._bag:
                    self._bag.tick(time, commanded[0], recorded)
        self._recorded.forget(min(needed, ticks[0][0]) if ticks else needed)

    def _why_nothing(self) -> str:
        twin = self._twin
        if self._log.at:
            return f"no prediction could be compared: no {self._source.commands} at the times of the actions"
        reasons = "; ".join(f"{why} ({count}): {twin.details().get(why, '')}" for why, count in twin.reasons().items())
        topics = ", ".join(f"{slot} is {camera.topic}" for slot, camera in self._robot.cameras.items())
        return f"no inference in {twin.telemetry.ticks} ticks: {reasons}. Cameras: {topics}"

    def _episode(self) -> Episode:
        log, errors = self._log, self._errors
        times, commanded, recorded = (np.array([row[i] for row in log.curve.items]) for i in range(3))
        curves = {
            "time": times,
            "commanded": commanded,
            "recorded": recorded,
            "chunk_stamp": np.array([c.stamp - self._begin for c in errors.shown.items]),
            "chunk_actions": np.stack([c.actions for c in errors.shown.items]),
        }
        timing = {"at": log.at, "total": log.total_ms, **log.stage_ms}
        return Episode(self._summary(), errors.sums, curves, {k: np.array(v) for k, v in timing.items()}, errors.worst)

    def _summary(self) -> dict:
        twin, log, node = self._twin, self._log, self._twin.lanes[0]
        names, total, count = self._robot.joint_names, *self._errors.change
        return {
            "recording": self._source.name,
            "commands": self._source.commands,
            "duration_s": number((self._source.end - self._source.start) / NANO),
            "prompt": twin.prompt,
            "ticks": twin.telemetry.ticks,
            "inferences": len(log.at),
            "compared": self._errors.compared,
            "assumed_delay_ms": number(1e3 * self._delays[0]),
            "busy_ticks": twin.telemetry.deadline_misses,
            "drops": twin.reasons(),
            "details": twin.details(),
            "skew_ms": spread(log.skew_ms),
            "cameras": {
                slot: stream_summary(log.stamps[slot], log.received[slot], self._begin) for slot in self._robot.cameras
            },
            "change_between_predictions": {
                n: number(t / c) if c else None for n, t, c in zip(names, total, count, strict=True)
            },
            **motion_summary(node, names, self._robot.timing.inference_hz),
            "worst": [
                {"at_s": number(m.stamp - self._begin), "normalised_mae": number(m.score)} for m in self._errors.worst
            ],
            "by_delay": [
                delay_summary(lane, delay, strayed, self._robot.timing.inference_hz)
                for lane, delay, strayed in zip(twin.lanes, self._delays, self._strayed, strict=True)
            ],
        }


def motion_summary(lane: Measured, names: list[str], hz: float) -> dict:
    """What the motion controller made of the chunks."""
    done, joins = lane.executed, lane.executed.joins
    clips = map(int, lane.motion.counters.clipped)
    rms = np.sqrt(done.jerk_squares / max(1, done.jerk_count))
    return {
        "joins": {
            "count": len(joins),
            "position_step_unstitched": spread(joins[:, 0]),
            "velocity_step_unstitched": spread(joins[:, 1]),
            "position_step": spread(joins[:, 2]),
            "velocity_step": spread(joins[:, 3]),
        },
        "jerk": {n: {"rms": number(r), "max": number(p)} for n, r, p in zip(names, rms, done.jerk_peak, strict=True)},
        "travelled": {n: number(p) for n, p in zip(names, done.path, strict=True)},
        "clips": dict(zip(("position", "velocity", "acceleration", "jerk"), clips, strict=True)),
        "state_s": {state: number(count / hz) for state, count in sorted(lane.states.items())},
    }


def delay_summary(lane: Measured, delay: float, strayed: np.ndarray, hz: float) -> dict:
    """The same chunks, after another delay: how far the commanded motion is from the recorded one."""
    joins = lane.executed.joins
    return {
        "delay_ms": number(1e3 * delay),
        "chunks": len(joins),
        "strayed": number(strayed[0] / strayed[1]) if strayed[1] else None,
        "position_step_unstitched": spread(joins[:, 0]),
        "clips": int(lane.motion.counters.clipped.sum()),
        "not_running_s": number(sum(c for s, c in lane.states.items() if s != "RUNNING") / hz),
        "rejected": dict(sorted(lane.motion.counters.rejected.items())),
    }


def thumbnail(image: np.ndarray) -> bytes:
    """(height, width, 3) RGB -> a small JPEG."""
    height, width = image.shape[:2]
    if width > THUMBNAIL:
        image = cv2.resize(image, (THUMBNAIL, max(1, height * THUMBNAIL // width)), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
