# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The newest coherent set of images, and the joint state at its time.

Callbacks put what arrives into rings; a timer asks for "the newest set now". Nothing waits, nothing is decoded here,
and a camera that stops only makes the answer a reason. Times are s on the ROS clock of the message stamps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pi_vla_ros.robot import RobotConfig

FRAMES = 8  # per camera: what the slowest camera may lag behind the fastest
STATES = 512  # about 1 s of joint states at 500 Hz
CLOCK_RESET = 1.0  # s; stamps that go back by more than this mean a new clock (a bag that loops), not disorder


@dataclass(frozen=True)
class Snapshot:
    """A coherent set. frames: slot -> (stamp, payload as it was put); state (measured_names,) at `stamp`."""

    frames: dict[str, tuple[float, Any]]
    state: np.ndarray
    stamp: float
    skew: float


@dataclass(frozen=True)
class Nothing:
    """No set: `reason` is a short name for counting, `detail` is for a person."""

    reason: str
    detail: str


@dataclass
class CameraRecord:
    """What is known of one camera. `arrivals` and `stamps` are the last few, s."""

    received: int = 0
    stamps: deque = None
    arrivals: deque = None

    def __post_init__(self):
        self.stamps, self.arrivals = deque(maxlen=60), deque(maxlen=60)

    @property
    def rate(self) -> float:
        """Frames received per second, over the last few; 0 before there are two."""
        return (
            (len(self.arrivals) - 1) / max(1e-9, self.arrivals[-1] - self.arrivals[0])
            if len(self.arrivals) > 1
            else 0.0
        )

    @property
    def lost(self) -> float:
        """Share of frames that seem lost on the way: the stamps' usual spacing against their mean spacing."""
        if len(self.stamps) < 20:
            return 0.0
        spacing = np.diff(np.array(self.stamps))
        usual = np.percentile(spacing, 10)
        return float(np.clip(1.0 - usual / spacing.mean(), 0.0, 1.0)) if spacing.mean() > 0 else 0.0


class ObservationBuffer:
    """Rings of frames and joint states for one robot. Puts and takes may come from different threads."""

    def __init__(self, robot: RobotConfig):
        self._timing, self._names = robot.timing, robot.measured_names
        self._frames: dict[str, deque] = {slot: deque(maxlen=FRAMES) for slot in robot.cameras}
        self._states: deque = deque(maxlen=STATES)
        self._lock = threading.Lock()
        self._taken = -np.inf
        self.cameras = {slot: CameraRecord() for slot in robot.cameras}
        self.dropped: dict[str, int] = {}

    def put_image(self, slot: str, stamp: float, payload: Any, arrival: float) -> None:
        """A frame of camera `slot`; `payload` is kept as it is. `arrival`: when it was received, same clock."""
        with self._lock:
            ring, record = self._frames[slot], self.cameras[slot]
            if ring and stamp < ring[-1][0] - CLOCK_RESET:
                self._clear()
            elif ring and stamp <= ring[-1][0]:
                self._drop("image_out_of_order")
                return
            ring.append((stamp, payload))
            record.received += 1
            record.stamps.append(stamp)
            record.arrivals.append(arrival)

    def put_state(self, stamp: float, names: Sequence[str], positions: Sequence[float]) -> Nothing | None:
        """A joint state, names in any order. Says why when it cannot be used."""
        if len(positions) != len(names):
            return self._refuse(
                "state_malformed", f"joint_states has {len(names)} names and {len(positions)} positions"
            )
        index = {name: i for i, name in enumerate(names)}
        missing = [name for name in self._names if name not in index]
        if missing:
            return self._refuse("joint_missing", f"joint_states lacks {', '.join(missing)}; it has {', '.join(names)}")
        values = np.array([positions[index[name]] for name in self._names], dtype=float)
        if not np.isfinite(values).all():
            bad = [n for n, v in zip(self._names, values, strict=True) if not np.isfinite(v)]
            return self._refuse("state_not_finite", f"joint_states has NaN or infinite positions: {', '.join(bad)}")
        with self._lock:
            if self._states and stamp < self._states[-1][0] - CLOCK_RESET:
                self._clear()
            elif self._states and stamp <= self._states[-1][0]:
                self._drop("state_out_of_order")
                return None
            self._states.append((stamp, values))
        return None

    def take(self, now: float) -> Snapshot | Nothing:
        """The newest coherent set that was not taken before, or why there is none."""
        with self._lock:
            silent = [slot for slot, ring in self._frames.items() if not ring]
            if silent:
                return Nothing("camera_missing", f"no image yet from {', '.join(silent)}")
            chosen = self._coherent()
            if chosen is None:
                newest = {slot: ring[-1][0] for slot, ring in self._frames.items()}
                late = min(newest, key=newest.get)
                return Nothing(
                    "skew",
                    f"no set of images within timing.max_skew ({self._timing.max_skew} s); '{late}' is "
                    f"{max(newest.values()) - newest[late]:.3f} s behind",
                )
            stamps = [stamp for stamp, _ in chosen.values()]
            stamp, oldest = max(stamps), min(stamps)
            if now - oldest > self._timing.max_age:
                late = min(chosen, key=lambda slot: chosen[slot][0])
                return Nothing(
                    "image_too_old",
                    f"newest coherent images are {now - oldest:.3f} s old ('{late}'); allowed: timing.max_age "
                    f"({self._timing.max_age} s)",
                )
            if stamp <= self._taken:
                return Nothing("no_new_image", "the newest set was used already")
            state = self._state_at(stamp, now)
            if isinstance(state, Nothing):
                return state
            self._taken = stamp
            return Snapshot(chosen, state, stamp, stamp - oldest)

    def newest_state(self, now: float) -> tuple[float, np.ndarray] | Nothing:
        """The last measured joint state, (stamp, (measured_names,)), or why there is none fresh enough."""
        with self._lock:
            if not self._states:
                return _NO_STATE
            stamp = self._states[-1][0]
            state = self._state_at(stamp, now)
            return state if isinstance(state, Nothing) else (stamp, state)

    def ages(self, now: float) -> tuple[dict[str, float], float]:
        """Seconds since the stamp of the newest image of each camera and of the newest joint state; inf before."""
        with self._lock:
            cameras = {slot: now - ring[-1][0] if ring else np.inf for slot, ring in self._frames.items()}
            return cameras, now - self._states[-1][0] if self._states else np.inf

    def clear(self) -> None:
        """Forget everything seen (a reset, a clock that jumped)."""
        with self._lock:
            self._clear()

    def _coherent(self) -> dict[str, tuple[float, Any]] | None:
        """From the newest frame backwards: for each camera the frame nearest to it; the first set within max_skew."""
        anchors = sorted({stamp for ring in self._frames.values() for stamp, _ in ring}, reverse=True)
        for anchor in anchors:
            chosen = {slot: min(ring, key=lambda f: abs(f[0] - anchor)) for slot, ring in self._frames.items()}
            stamps = [stamp for stamp, _ in chosen.values()]
            if max(stamps) - min(stamps) <= self._timing.max_skew:
                return chosen
        return None

    def _state_at(self, stamp: float, now: float) -> np.ndarray | Nothing:
        if not self._states:
            return _NO_STATE
        age = now - self._states[-1][0]
        if age > self._timing.max_age:
            return Nothing(
                "state_too_old",
                f"newest joint_states is {age:.3f} s old; allowed: timing.max_age ({self._timing.max_age} s)",
            )
        after = None
        for time, values in reversed(self._states):
            if time <= stamp:
                if after is None:
                    return values  # the image is newer than any state
                share = (stamp - time) / (after[0] - time)
                return values + share * (after[1] - values)
            after = (time, values)
        return Nothing("state_too_new", "joint_states begins after the images; waiting for newer images")

    def _clear(self) -> None:
        for ring in self._frames.values():
            ring.clear()
        self._states.clear()
        self._taken = -np.inf

    def _refuse(self, reason: str, detail: str) -> Nothing:
        with self._lock:
            self._drop(reason)
        return Nothing(reason, detail)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


_NO_STATE = Nothing("state_missing", "no joint_states yet")
