# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Coherent sets: newest, within the skew, with the joint state of that moment; and a reason when there is none."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.observation_buffer import Nothing, ObservationBuffer, Snapshot

NAMES = [f"joint{i}" for i in range(1, 8)] + ["gripper"]
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


@pytest.fixture
def buffer(sim_robot):
    timing = dataclasses.replace(sim_robot.timing, max_skew=0.02, max_age=0.1)
    return ObservationBuffer(dataclasses.replace(sim_robot, timing=timing))


def put_set(buffer, stamps, arrival=None):
    for slot, stamp in zip(SLOTS, stamps, strict=True):
        buffer.put_image(slot, stamp, f"{slot}@{stamp}", stamp if arrival is None else arrival)


def put_states(buffer, times):
    for t in times:
        assert buffer.put_state(t, NAMES, [t + i for i in range(8)]) is None


def test_newest_coherent_set_with_interpolated_state(buffer):
    put_set(buffer, (1.00, 1.005, 0.995))
    put_set(buffer, (1.033, 1.038, 1.028))
    put_states(buffer, [1.0, 1.02, 1.04])
    snapshot = buffer.take(1.05)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.stamp == 1.038 and snapshot.skew == pytest.approx(0.010)
    np.testing.assert_allclose(snapshot.state, 1.038 + np.arange(8))
    assert snapshot.frames["base_0_rgb"] == (1.033, "base_0_rgb@1.033")


def test_an_older_set_is_taken_when_the_newest_is_not_coherent(buffer):
    put_set(buffer, (1.00, 1.005, 0.995))
    buffer.put_image("base_0_rgb", 1.04, "new", 1.04)
    put_states(buffer, [0.9, 1.1])
    snapshot = buffer.take(1.05)
    assert {stamp for stamp, _ in snapshot.frames.values()} == {1.00, 1.005, 0.995}


def test_a_set_is_taken_once(buffer):
    put_set(buffer, (1.0, 1.0, 1.0))
    put_states(buffer, [0.9, 1.1])
    assert isinstance(buffer.take(1.01), Snapshot)
    assert buffer.take(1.02).reason == "no_new_image"


@pytest.mark.parametrize(
    ("fill", "now", "reason", "words"),
    [
        (lambda b: None, 1.0, "camera_missing", "base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb"),
        (lambda b: put_set(b, (1.0, 1.05, 1.0)), 1.05, "skew", "max_skew (0.02 s)"),
        (lambda b: put_set(b, (1.0, 1.0, 1.0)), 1.2, "image_too_old", "timing.max_age (0.1 s)"),
        (lambda b: put_set(b, (1.0, 1.0, 1.0)), 1.05, "state_missing", "no joint_states"),
        (lambda b: (put_set(b, (1.0, 1.0, 1.0)), put_states(b, [0.9])), 1.05, "state_too_old", "0.150 s old"),
        (lambda b: (put_set(b, (1.0, 1.0, 1.0)), put_states(b, [1.04])), 1.05, "state_too_new", "begins after"),
    ],
)
def test_reasons(buffer, fill, now, reason, words):
    fill(buffer)
    nothing = buffer.take(now)
    assert isinstance(nothing, Nothing) and nothing.reason == reason and words in nothing.detail


def test_states_go_by_name_and_bad_ones_are_refused(buffer):
    values = dict(zip(NAMES, range(8), strict=True))
    shuffled = ["extra", *reversed(NAMES)]
    assert buffer.put_state(1.0, shuffled, [99.0] + [float(values[n]) for n in reversed(NAMES)]) is None
    np.testing.assert_array_equal(buffer.newest_state(1.0)[1], np.arange(8.0))
    for names, positions, reason, word in (
        (NAMES[:-1], [0.0] * 7, "joint_missing", "gripper"),
        (NAMES, [0.0] * 7, "state_malformed", "8 names and 7 positions"),
        (NAMES, [0.0] * 7 + [float("nan")], "state_not_finite", "gripper"),
        (NAMES, [float("inf")] + [0.0] * 7, "state_not_finite", "joint1"),
    ):
        refused = buffer.put_state(2.0, names, positions)
        assert refused.reason == reason and word in refused.detail
    assert buffer.dropped == {"joint_missing": 1, "state_malformed": 1, "state_not_finite": 2}
    np.testing.assert_array_equal(buffer.newest_state(1.0)[1], np.arange(8.0))  # the good one is kept


def test_disorder_is_dropped_and_a_clock_reset_starts_anew(buffer):
    put_set(buffer, (10.0, 10.0, 10.0))
    put_states(buffer, [9.99, 10.0])
    buffer.put_image("base_0_rgb", 9.99, "late", 10.0)
    assert buffer.dropped == {"image_out_of_order": 1}
    put_set(buffer, (1.0, 1.0, 1.0))  # a bag that loops
    put_states(buffer, [0.99, 1.01])
    snapshot = buffer.take(1.02)
    assert snapshot.stamp == 1.0


def test_rates_and_losses(buffer):
    for k in range(60):
        buffer.put_image("base_0_rgb", k / 30, None, k / 30)
    for k in range(0, 60, 3):  # two of three lost, but now and then two in a row arrive
        buffer.put_image("left_wrist_0_rgb", k / 30, None, k / 30)
        if k % 6 == 0:
            buffer.put_image("left_wrist_0_rgb", (k + 1) / 30, None, (k + 1) / 30)
    base, left = buffer.cameras["base_0_rgb"], buffer.cameras["left_wrist_0_rgb"]
    assert base.rate == pytest.approx(30, rel=0.01) and base.lost < 0.01
    assert left.lost > 0.4


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SLOTS), st.floats(0, 1)), max_size=40),
    st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=20),
)
def test_whatever_arrives_a_set_is_coherent_fresh_and_bracketed(frames, states):
    from pi_vla_ros.robot import load_robot

    buffer = ObservationBuffer(load_robot("sim"))
    for slot, stamp in frames:
        buffer.put_image(slot, stamp, stamp, stamp)
    for t in states:
        buffer.put_state(t, NAMES, [t] * 8)
    now = 1.0
    taken = buffer.take(now)
    if isinstance(taken, Snapshot):
        stamps = [stamp for stamp, _ in taken.frames.values()]
        assert max(stamps) - min(stamps) == pytest.approx(taken.skew) and taken.skew <= 0.06
        assert now - min(stamps) <= 0.2 and taken.stamp == max(stamps)
        newest = max(t for t in np.maximum.accumulate(states))
        expected = min(taken.stamp, newest)  # the state is linear in time: interpolation must reproduce it
        assert taken.state[0] == pytest.approx(expected, abs=1e-9)
