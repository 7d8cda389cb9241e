# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Frames decoded when they arrive: the same ones, once each, where there are cores and somebody asks."""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Iterator
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pi_vla_ros.inference import InferenceThread
from pi_vla_ros.observation_buffer import Snapshot
from pi_vla_ros.processing import early_frames, frames
from pi_vla_ros.processing.early_frames import KEPT, UNUSED, EarlyFrames
from pi_vla_ros.processing.frames import HELPERS, FrameError, decode, ordinary

SIZE = 6, 8


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def raw(seed: int, encoding: str = "rgb8") -> SimpleNamespace:
    height, width = SIZE
    return SimpleNamespace(encoding=encoding, height=height, width=width, step=3 * width, data=picture(seed).tobytes())


def png(seed: int) -> SimpleNamespace:
    return SimpleNamespace(format="png", data=cv2.imencode(".png", picture(seed))[1].tobytes())


DAMAGED = SimpleNamespace(format="jpeg", data=b"\xff\xd8")


@pytest.fixture
def decoded(monkeypatch) -> Iterator[Counter]:
    """How often each message was decoded, early or not."""
    counted, lock = Counter(), threading.Lock()

    def count(message, empty):
        with lock:
            counted[id(message)] += 1
        return decode(message, empty)

    monkeypatch.setattr(frames, "CORES", 16)
    monkeypatch.setattr(early_frames, "decode", count)
    monkeypatch.setattr(frames, "decode", count)
    yield counted
    all_done()  # or the next test would be told of this one's


def all_done() -> None:
    """The helpers have nothing left to do."""
    meeting = threading.Barrier(HELPERS + 1)
    for _ in range(HELPERS):
        frames.helpers.submit(meeting.wait, 10)
    meeting.wait(10)


def test_a_frame_that_arrived_is_not_decoded_again(decoded):
    early = EarlyFrames(ordinary)
    messages = {"a": png(1), "b": raw(2), "c": raw(3, "bgr8")}
    for slot, message in messages.items():
        early.arrived(slot, message)
    all_done()
    for _ in range(2):  # a set may be asked for twice
        got = early.of(messages)
        assert list(got) == list(messages)
        assert all(np.array_equal(got[slot], decode(message)) for slot, message in messages.items())
    assert set(decoded.values()) == {1}


def test_what_needs_no_conversion_lies_in_the_room_that_was_asked_for(decoded):
    rooms = []
    early = EarlyFrames(lambda *size: rooms.append(ordinary(*size)) or rooms[-1])
    message = raw(4)
    early.arrived("a", message)
    all_done()
    frame = early.of({"a": message})["a"]
    assert frame is rooms[0] and np.array_equal(frame, picture(4))


def test_the_newest_two_are_kept(decoded):
    early = EarlyFrames(ordinary)
    messages = [png(i) for i in range(KEPT + 1)]
    for message in messages:
        early.arrived("a", message)
        all_done()
    for i in (KEPT, KEPT - 1, 0):
        assert np.array_equal(early.of({"a": messages[i]})["a"], decode(messages[i]))
    assert [decoded[id(m)] for m in messages] == [2, *[1] * KEPT]  # the oldest one again


def test_a_frame_that_never_arrived_is_decoded_when_it_is_asked_for(decoded):
    early = EarlyFrames(ordinary)
    here, other = png(1), png(2)
    early.arrived("a", here)
    got = early.of({"a": here, "b": other})
    assert np.array_equal(got["b"], decode(other)) and decoded[id(here)] == decoded[id(other)] == 1


def test_nothing_is_begun_while_nobody_asks(decoded):
    early = EarlyFrames(ordinary)
    messages = [png(i) for i in range(UNUSED + 3)]
    for message in messages:
        early.arrived("a", message)
        early.arrived("b", message)
        all_done()
    early.of({"a": messages[-1]})  # decoded now
    assert [decoded[id(m)] for m in messages] == [*[2] * UNUSED, 0, 0, 1]
    again = png(9)
    early.arrived("a", again)
    early.arrived("b", again)  # of which nobody has asked
    early.of({"a": again})
    assert decoded[id(again)] == 1


def test_a_step_waits_for_no_helper_that_is_behind(decoded):
    """All helpers are busy: of what arrives meanwhile the step decodes what it wants, and nobody ever the rest."""
    early, free = EarlyFrames(ordinary), threading.Event()
    for _ in range(HELPERS):
        frames.helpers.submit(free.wait, 10)
    messages = [png(i) for i in range(UNUSED)]
    for message in messages:
        early.arrived("a", message)
    assert np.array_equal(early.of({"a": messages[-1]})["a"], decode(messages[-1]))
    free.set()
    all_done()
    assert [decoded[id(m)] for m in messages] == [*[0] * (UNUSED - 1), 1]


def test_what_cannot_be_read_is_told_when_it_is_asked_for(decoded):
    early = EarlyFrames(ordinary)
    good = png(1)
    early.arrived("a", DAMAGED)
    early.arrived("b", good)
    early.arrived("c", SimpleNamespace(encoding="rgb8"))  # not even an image
    with pytest.raises(FrameError, match="damaged"):
        early.of({"a": DAMAGED, "b": good})
    assert np.array_equal(early.of({"b": good})["b"], decode(good))


@pytest.mark.parametrize("cores", [1, 3])
def test_with_few_cores_nothing_is_begun(decoded, cores, monkeypatch):
    monkeypatch.setattr(frames, "CORES", cores)
    early, message = EarlyFrames(ordinary), png(1)
    early.arrived("a", message)
    all_done()
    assert not decoded
    assert np.array_equal(early.of({"a": message})["a"], decode(message))


@pytest.mark.parametrize("rate", [1, 2, 3])
def test_there_is_room_for_all_frames(decoded, rate):
    """rate: frames of a camera a step. A step lasts until the next begins; sets may have frames before the newest."""
    pytest.importorskip("triton")
    from pi_vla_ros.engine.fused.frame_memory import FrameMemory

    slots, order = "abc", random.Random(rate)
    memory = FrameMemory(4 * len(slots), 3 * SIZE[0] * SIZE[1], pinned=False)
    early = EarlyFrames(memory.empty)
    newest = {slot: deque([png(0)], maxlen=2) for slot in slots}
    for step in range(60):
        for i in range(rate):
            for slot in order.sample(slots, 3):
                newest[slot].append(raw(rate * step + i, order.choice(["rgb8", "bgr8"])))
                early.arrived(slot, newest[slot][-1])
            all_done()
        asked = {slot: newest[slot][-1 if step < 2 else order.choice([-1, -1, -2])] for slot in slots}
        got = early.of(asked)
        if step >= 2:
            assert all(map(memory.address, got.values()))
        assert all(np.array_equal(got[slot], decode(m)) for slot, m in asked.items())


def test_an_inference_is_given_the_frames_of_its_set(decoded, sim_robot):
    """Through the thread: hundreds of sets, each frame decoded once."""
    seen, answered = [], threading.Event()

    class Policy:
        empty_frame = staticmethod(ordinary)

        def infer(self, observation, previous, delay):
            seen.append(observation)
            return None

    inference = InferenceThread(Policy(), lambda *_: answered.set(), lambda *told: pytest.fail(str(told)))
    kept = []
    for step in range(200):
        messages = {"a": png(step), "b": raw(step + 1000)}
        kept.append(messages)  # or another message could have its id
        for slot, message in messages.items():
            inference.expect(slot, message)
        answered.clear()
        frames_of = {slot: (0.0, message) for slot, message in messages.items()}
        inference.submit(Snapshot(frames_of, np.zeros(1), 0.0, 0.0), "wave", None, 0.0)
        assert answered.wait(10)
        while inference.busy:
            pass
        assert all(np.array_equal(seen[-1].images[slot], decode(m)) for slot, m in messages.items())
    assert inference.close()
    assert len(decoded) == 400 and set(decoded.values()) == {1}  # early or not
