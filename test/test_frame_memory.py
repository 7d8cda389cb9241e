# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Frames that the GPU reads where they are: whose room is whose, and what may be read there."""

from __future__ import annotations

import gc

import numpy as np
import pytest

pytest.importorskip("triton")

from pi_vla_ros.engine.fused.frame_memory import LINE, FrameMemory

SIZE = 5, 7
NBYTES = 3 * SIZE[0] * SIZE[1]  # 105: no whole number of words


@pytest.fixture
def memory():
    return FrameMemory(2, NBYTES, pinned=False)


def room_of(memory, frame) -> int:
    return (frame.ctypes.data - memory._begin) // memory._room


def test_rooms_do_not_overlap_and_begin_with_a_line(memory):
    frames = [memory.empty(*SIZE), memory.empty(*SIZE)]
    assert {room_of(memory, frame) for frame in frames} == {0, 1}
    for value, frame in enumerate(frames):
        assert frame.shape == (*SIZE, 3) and frame.dtype == np.uint8 and frame.flags.writeable
        assert (frame.ctypes.data - memory._begin) % LINE == 0
        frame[:] = value + 1
    assert [frame.sum() for frame in frames] == [NBYTES, 2 * NBYTES]


def test_a_room_is_free_when_its_frame_is_gone(memory):
    first, second = memory.empty(*SIZE), memory.empty(*SIZE)
    room = room_of(memory, first)
    del first
    gc.collect()
    assert room_of(memory, memory.empty(2, 2)) == room
    assert memory.address(second)


@pytest.mark.parametrize("view", [lambda f: f[:], lambda f: f[2:, 1:], lambda f: f.reshape(-1)[5:], lambda f: f.T])
def test_a_room_is_not_free_while_a_view_of_its_frame_is_there(memory, view):
    frame = memory.empty(*SIZE)
    frame[:] = 7
    kept = view(frame)
    del frame
    gc.collect()
    others = [memory.empty(*SIZE) for _ in range(4)]
    for other in others:
        other[:] = 9
    assert (kept == 7).all()
    del kept, other, others
    gc.collect()
    assert sorted(memory._free) == [0, 1]


def test_without_a_room_it_is_ordinary_memory(memory):
    """None is free, or the frame is larger than rooms are: an array all the same, which the GPU does not read."""
    kept = [memory.empty(*SIZE), memory.empty(*SIZE)]
    for frame in (memory.empty(*SIZE), FrameMemory(1, NBYTES, pinned=False).empty(9, 9)):
        frame[:] = 3
        assert memory.address(frame) == 0
    assert all(memory.address(frame) == frame.ctypes.data for frame in kept)


def test_what_can_be_read_in_words(memory):
    frame = memory.empty(4, 4)
    assert memory.address(frame) == frame.ctypes.data
    assert memory.address(frame[1:]) == frame.ctypes.data + 12  # whole rows
    assert memory.address(frame[:, 1:]) == 0  # not in one piece
    assert memory.address(memory.empty(3, 3)[1:]) == 0  # begins inside a word
    assert memory.address(frame.transpose(1, 0, 2)) == 0
    assert memory.address(frame.copy()) == 0
    assert memory.address(np.zeros((2, 2, 3), np.uint8)) == 0


def test_a_frame_outlives_its_memory():
    frame = FrameMemory(1, NBYTES, pinned=False).empty(*SIZE)
    gc.collect()
    frame[:] = 5
    assert frame.sum() == 5 * NBYTES
