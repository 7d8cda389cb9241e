# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Bags of every kind give the same events; what is wrong with one is told with its name and topic."""

import dataclasses

import numpy as np
import pytest
from replay_rig import array, messages, split, write_bag

from pi_vla_ros.replay.bags import BagSource, find_bags
from pi_vla_ros.replay.source import SourceError
from pi_vla_ros.robot import Replay


@pytest.fixture(scope="module")
def rows(sim_robot):
    return messages(sim_robot.joint_names, 2.0, "joint_trajectory")


def told(source):
    return [(e.received, e.kind, e.slot) for e in source.events()]


@pytest.mark.parametrize(
    ("storage", "compression"), [("mcap", "none"), ("mcap", "storage"), ("mcap", "file"), ("mcap", "message"),
                                 ("sqlite3", "none"), ("sqlite3", "file"), ("sqlite3", "message")]
)  # fmt: skip
def test_every_storage_and_compression(storage, compression, rows, sim_robot, tmp_path):
    bag = write_bag(tmp_path / "bag", rows, storage, compression)
    source = BagSource(bag, sim_robot)
    events = list(source.events())
    assert [e.received for e in events] == [row[2] for row in rows]
    assert source.commands == "joint_trajectory" and source.start == rows[0][2]
    assert {e.kind for e in events} == {"image", "state", "command"}
    states = [e.message for e in events if e.kind == "state"]
    expected = [m for topic, _, _, m in rows if topic == "/joint_states"]
    np.testing.assert_array_equal([s.position for s in states], [m.position for m in expected])


def test_bytes_behind_a_message_are_let_pass(rows, sim_robot, tmp_path):
    padded = BagSource(write_bag(tmp_path / "padded", rows, padding=b"\xd5\x7f\0\0rest"), sim_robot)
    plain = BagSource(write_bag(tmp_path / "plain", rows), sim_robot)
    for found, expected in zip(padded.events(), plain.events(), strict=True):
        assert (found.received, found.slot) == (expected.received, expected.slot)
        if found.kind == "state":
            assert found.message.header == expected.message.header
            np.testing.assert_array_equal(found.message.position, expected.message.position)


def test_a_bare_file_a_folder_of_bags_and_a_split_bag(rows, sim_robot, tmp_path):
    half = len(rows) // 2
    first, second = write_bag(tmp_path / "a", rows[:half]), write_bag(tmp_path / "b", rows[half:])
    assert find_bags([tmp_path]) == [first, second]
    whole = split(tmp_path / "whole", [first, second])
    assert told(BagSource(whole, sim_robot)) == told(BagSource(write_bag(tmp_path / "c", rows), sim_robot))
    file = next(first.glob("*.mcap"))
    assert find_bags([file]) == [file] and len(told(BagSource(file, sim_robot))) == half


def test_start_and_duration(rows, sim_robot, tmp_path):
    bag = write_bag(tmp_path / "bag", rows)
    source = BagSource(bag, sim_robot, start=0.5, duration=1.0)
    times = [e.received for e in source.events()]
    assert min(times) >= rows[0][2] + 5 * 10**8 and max(times) < rows[0][2] + 15 * 10**8
    with pytest.raises(SourceError, match=r"--start 9.0 s lies behind its end; it is 2\.\d s long"):
        BagSource(bag, sim_robot, start=9.0)


def test_topics_in_a_namespace(rows, sim_robot, tmp_path):
    bag = write_bag(tmp_path / "bag", [("/left" + topic, *rest) for topic, *rest in rows])
    assert len(told(BagSource(bag, sim_robot, "left"))) == len(rows)
    with pytest.raises(SourceError, match=r"no messages on /cameras/base/image_raw .*/left/cameras/base/image_raw"):
        BagSource(bag, sim_robot)


def without(rows, topic):
    return [row for row in rows if row[0] != topic]


def state_of_another_type(rows):
    wrong = ("/joint_states", "std_msgs/msg/Float64MultiArray", rows[-1][2], array(np.zeros(8)))
    return [*without(rows, "/joint_states"), wrong]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: [], "holds no message"),
        (lambda r: without(r, "/joint_states"), r"no messages on /joint_states \(joint states"),
        (lambda r: without(r, "/cameras/base/image_raw"), r"no messages on /cameras/base/image_raw \(camera base_0"),
        (lambda r: without(r, "/joint_trajectory"), r"no commands: .*--commands joint_states"),
        (state_of_another_type, r"/joint_states \(joint states\) is std_msgs/msg/Float64MultiArray"),
    ],
)
def test_what_is_missing_is_named(change, words, rows, sim_robot, tmp_path):
    kinds = [("/joint_states", "sensor_msgs/msg/JointState")] if not change(rows) else []
    bag = write_bag(tmp_path / "bag", change(rows), counts=kinds)
    with pytest.raises(SourceError, match=words) as error:
        BagSource(bag, sim_robot)
    assert str(bag) in str(error.value)


def test_remapped_commands_and_measured_ones(rows, sim_robot, tmp_path):
    moved = [("/arm/goal" if topic == "/joint_trajectory" else topic, *rest) for topic, *rest in rows]
    bag = write_bag(tmp_path / "bag", moved)
    named = dataclasses.replace(sim_robot, replay=Replay(topic="/arm/goal"))
    assert BagSource(bag, named).commands == "joint_trajectory"
    measured = BagSource(bag, dataclasses.replace(sim_robot, replay=Replay(commands="joint_states")))
    kinds = [e.kind for e in measured.events()]
    assert kinds.count("state") == kinds.count("command") == 100


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_bag(storage, share, rows, sim_robot, tmp_path):
    bag = write_bag(tmp_path / "bag", rows, storage)
    file = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError, match="truncated") as error:
        told(BagSource(bag, sim_robot))
    assert str(bag) in str(error.value)


def test_damage_in_the_middle_names_the_topic(rows, sim_robot, tmp_path):
    bag = write_bag(tmp_path / "bag", rows, "sqlite3")
    import sqlite3

    with sqlite3.connect(next(bag.glob("*.db3"))) as db:
        db.execute("UPDATE messages SET data = x'00010000' WHERE id = 40")
    with pytest.raises(SourceError, match=r"damaged 0\.\d s after its start; last topic read: /"):
        told(BagSource(bag, sim_robot))


def test_not_a_bag(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        find_bags([tmp_path / "nothing"])
    with pytest.raises(SourceError, match=r"neither metadata\.yaml"):
        find_bags([tmp_path])
