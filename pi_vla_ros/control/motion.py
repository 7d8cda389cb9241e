# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The motion of the arm as a small state machine: what is executed, whether a chunk may take over, what was clipped.

    INACTIVE --start--> HOLDING --chunk--> RUNNING --no new chunk--> ENDING --at rest--> HOLDING
    any active state --disable--> STOPPED --enable--> HOLDING
    any state --estop--> ESTOP --reset_estop--> STOPPED (active) or INACTIVE
    any active state --finish--> INACTIVE

Times are s on the ROS clock. Calls may come from several threads.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pi_vla_ros.control.planner import ChunkRejected, Plan, Planner
from pi_vla_ros.control.trajectory import accelerations, sample
from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.types import ActionChunk, Trajectory

BRAKE_ATTEMPTS, LATER = 4, 0.05  # s; when all fail, the trajectory under way still ends at rest by itself


class State(enum.Enum):
    INACTIVE = "commands nothing"
    RUNNING = "follows the policy"
    ENDING = "decelerates: no new chunk came in time"
    HOLDING = "holds: waits for a chunk"
    STOPPED = "holds: disabled"
    ESTOP = "stopped: emergency stop is latched"


@dataclass
class Joins:
    """How chunks were joined: number, and the largest steps at the moment of taking over, per joint unit."""

    count: int = 0
    position_step: float = 0.0
    velocity_step: float = 0.0
    acceleration_step: float = 0.0


@dataclass
class Counters:
    joins: Joins = field(default_factory=Joins)
    # position, velocity, acceleration, jerk: steps in which the limit cut, and the most that it cut of any joint
    clipped: np.ndarray = field(default_factory=lambda: np.zeros(4, dtype=np.int64))
    clip_most: np.ndarray = field(default_factory=lambda: np.zeros(4))  # rad or m, per s, per s², per s³
    rejected: dict[str, int] = field(default_factory=dict)
    transitions: list[tuple[float, str]] = field(default_factory=list)


class MotionController:
    """Owns the trajectory that the arm executes. `send(plan) -> bool` hands a plan to the outputs and says whether
    it came in time; a plan that did not is forgotten, and the one before goes on to its own safe end."""

    def __init__(self, robot: RobotConfig, send: Callable[[Plan], bool]):
        self.planner = Planner(robot)
        self.counters = Counters()
        self._motion, self._send = robot.motion, send
        self._lock = threading.RLock()
        self._plan: Plan | None = None
        self._enabled, self._estop = True, False
        self._from_rest = True
        self._newest = -math.inf  # stamp of the last chunk that took over
        self._seen = State.INACTIVE

    # --- what happens ----------------------------------------------------------------------------------------

    def start(self, position: np.ndarray, now: float) -> None:
        """Begin to command, at rest at the measured `position` (joints,)."""
        with self._lock:
            self._plan = self.planner.hold(np.asarray(position, dtype=float), now)
            self._send(self._plan)
            self._from_rest, self._newest = True, -math.inf
            self._note(now)

    def chunk(self, chunk: ActionChunk, now: Callable[[], float]) -> str | None:
        """Let a chunk take over. None when it did; otherwise the reason why not. Never raises on a bad chunk."""
        with self._lock:
            reason = self._refusal(now()) or self._stale(chunk)
            if reason is None:
                reason = self._take(chunk, now)
            if reason is not None:
                self.counters.rejected[reason] = self.counters.rejected.get(reason, 0) + 1
            self._note(now())
            return reason

    def enable(self, enabled: bool, now: float) -> None:
        """Allow or forbid motion; forbidding decelerates and holds."""
        with self._lock:
            if self._enabled and not enabled:
                self._brake(now)
            self._enabled = enabled
            self._note(now)

    def estop(self, latched: bool, now: float) -> float:
        """Latch (brake, then command nothing) or release. Returns the time at which the arm is at rest."""
        with self._lock:
            if latched and not self._estop:
                self._brake(now)
            if self._estop and not latched:
                self._enabled = False  # releasing must not move the arm: an explicit enable does
            self._estop = latched
            self._note(now)
            return self._plan.trajectory.end if self._plan else now

    def finish(self, now: float) -> float:
        """Decelerate; returns the time at which the arm is at rest and `stopped` may be called."""
        with self._lock:
            self._brake(now)
            return self._plan.trajectory.end if self._plan else now

    def stopped(self, now: float) -> None:
        """Command nothing any more."""
        with self._lock:
            self._plan = None
            self._note(now)

    # --- what is -----------------------------------------------------------------------------------------------

    def state(self, now: float) -> State:
        with self._lock:
            if self._estop:
                return State.ESTOP
            if self._plan is None:
                return State.INACTIVE
            if not self._enabled:
                return State.STOPPED
            if now >= self._plan.trajectory.end:
                return State.HOLDING
            ending = self._plan.raw is None or now >= self._plan.tail * self.planner.step
            return State.ENDING if ending else State.RUNNING

    def update(self, now: float) -> State:
        """The state now; keeps the record of transitions."""
        with self._lock:
            self._note(now)
            return self._seen

    @property
    def enabled(self) -> bool:
        return self._enabled

    @property
    def estopped(self) -> bool:
        return self._estop

    @property
    def trajectory(self) -> Trajectory | None:
        with self._lock:
            return self._plan.trajectory if self._plan else None

    # --- how ---------------------------------------------------------------------------------------------------

    def _refusal(self, now: float) -> str | None:
        if self._plan is None:
            return "not_active"
        if self._estop:
            return "estop"
        if not self._enabled:
            return "disabled"
        return "stopping" if self._plan.raw is None and now < self._plan.trajectory.end else None

    def _stale(self, chunk: ActionChunk) -> str | None:
        """Chunks answer observations in the order in which these were made."""
        return None if chunk.stamp > self._newest or not math.isfinite(chunk.stamp) else "chunk_not_newer"

    def _take(self, chunk: ActionChunk, clock: Callable[[], float]) -> str | None:
        old, now = self._plan, clock()
        resting = self._from_rest or now >= old.trajectory.end
        window = self._motion.start_ramp if resting else self._motion.blend
        try:
            plan = self.planner.follow(self._from(old, resting, now), chunk, now, window)
        except ChunkRejected as error:
            return error.reason
        if clock() >= plan.join * self.planner.step or not self._send(plan):
            return "plan_late"
        self._plan, self._from_rest, self._newest = plan, False, chunk.stamp
        self._count(old, plan)
        return None

    def _from(self, plan: Plan, resting: bool, now: float) -> Plan:
        """What a chunk takes over from: the motion, or where the arm rests, whatever was wanted before."""
        return self.planner.hold(plan.trajectory.positions[-1], now) if resting and now >= plan.trajectory.end else plan

    def _brake(self, now: float) -> None:
        """Take over with a braking plan; one that came too late is tried again from a little later on."""
        if self._plan is None or now >= self._plan.trajectory.end or self._plan.raw is None:
            return
        self._from_rest = True
        for attempt in range(BRAKE_ATTEMPTS):
            plan = self.planner.stop(self._plan, now + attempt * LATER)
            if self._send(plan):
                self._plan = plan
                return

    def _count(self, old: Plan, new: Plan) -> None:
        """Measure the join on the curves themselves, and count the clips of what was executed of the old plan."""
        time = new.join * self.planner.step
        (p0, v0), (p1, v1) = sample(old.trajectory, time), sample(new.trajectory, time)
        joins = self.counters.joins
        joins.count += 1
        joins.position_step = max(joins.position_step, float(np.abs(p1 - p0).max()))
        joins.velocity_step = max(joins.velocity_step, float(np.abs(v1 - v0).max()))
        at = new.join - new.trajectory.first
        begin, end = accelerations(new.trajectory)
        arriving, leaving = end[at - 1], begin[at]
        joins.acceleration_step = max(joins.acceleration_step, float(np.abs(leaving - arriving).max()))
        if old.cut is not None:
            executed = old.cut[:, : new.join - old.join]
            self.counters.clipped += (executed > 0).sum(axis=(1, 2))
            self.counters.clip_most = np.maximum(self.counters.clip_most, executed.max(axis=(1, 2), initial=0.0))

    def _note(self, now: float) -> None:
        state = self.state(now)
        if state is not self._seen:
            self.counters.transitions.append((now, f"{self._seen.name} -> {state.name}"))
            self._seen = state
