# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fault strings are read, and wrong ones are explained."""

import math

import pytest

from pi_vla_ros.sim.faults import Fault, FaultError, Faults, parse_faults

SLOTS, JOINTS = ["base_0_rgb", "left_wrist_0_rgb"], ["joint1", "joint3"]


def parse(text):
    return parse_faults(text, SLOTS, JOINTS)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop:left_wrist_0_rgb:5-8", Fault("drop", "left_wrist_0_rgb", 5, 8)),
        ("freeze:base_0_rgb:5-8", Fault("freeze", "base_0_rgb", 5, 8)),
        ("repeat:base_0_rgb:5-8", Fault("repeat", "base_0_rgb", 5, 8)),
        ("stop:all_cameras:5-", Fault("drop", "all_cameras", 5, math.inf)),
        ("stop:joint_states:0-1", Fault("drop", "joint_states", 0, 1)),
        ("nan_state:5-5.2", Fault("nan_state", "", 5, 5.2)),
        ("nan_state:joint3:5-5.2", Fault("nan_state", "joint3", 5, 5.2)),
        ("delay:base_0_rgb:0.3:5-8", Fault("delay", "base_0_rgb", 5, 8, 0.3)),
        ("missing_joint:joint3:5-6", Fault("missing_joint", "joint3", 5, 6)),
    ],
)
def test_each_kind(text, fault):
    assert parse(text) == [fault]


def test_several_and_none():
    assert len(parse("drop:base_0_rgb:1-2, nan_state:3-4;  missing_joint:joint1:5-")) == 3
    assert parse("") == parse("  ") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode:base_0_rgb:5-8", ["explode", "allowed", "drop", "missing_joint"]),
        ("drop:front:5-8", ["front", "base_0_rgb", "all_cameras", "joint_states"]),
        ("freeze:joint_states:5-8", ["joint_states", "allowed", "all_cameras"]),
        ("missing_joint:joint9:5-8", ["joint9", "joint1, joint3"]),
        ("missing_joint:5-8", ["missing_joint:<joint>:<from>-<to>"]),
        ("drop:base_0_rgb", ["drop:<camera>:<from>-<to>"]),
        ("drop:base_0_rgb:5", ["'5'", "no '-'"]),
        ("drop:base_0_rgb:8-5", ["before it starts"]),
        ("drop:base_0_rgb:x-5", ["'x'", "number"]),
        ("drop:base_0_rgb:nan-5", ["'nan'", "number"]),
        ("delay:base_0_rgb:5-8", ["delay:<camera>:<seconds>:<from>-<to>"]),
        ("delay:base_0_rgb:-1:5-8", ["'-1'"]),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(FaultError) as error:
        parse(text)
    for word in [text, *words]:
        assert word in str(error.value)


def test_when_they_hold():
    faults = Faults(parse("drop:all_cameras:5-8 nan_state:1-2 missing_joint:joint3:1-2"))
    assert faults.camera("drop", "base_0_rgb", 4.99) is None
    assert faults.camera("drop", "base_0_rgb", 5.0)
    assert faults.camera("drop", "base_0_rgb", 8.0) is None
    assert faults.camera("freeze", "base_0_rgb", 6.0) is None
    assert not faults.states_stopped(6.0)
    assert faults.nan_joints(1.5, JOINTS) == JOINTS
    assert faults.missing_joints(1.5, JOINTS) == ["joint3"]
    assert faults.nan_joints(2.5, JOINTS) == faults.missing_joints(2.5, JOINTS) == []
