# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is silenced in the middle of a motion (a clock that jumped) comes to rest first."""

import numpy as np
import pytest

from pi_vla_ros.control.board import ANY_TIME, TrajectoryBoard
from pi_vla_ros.control.guard import SLACK, Guard
from pi_vla_ros.control.limiter import Limits
from pi_vla_ros.control.player import Player
from pi_vla_ros.types import Trajectory

HZ, STEP = 480.0, 0.01
LOW, HIGH, SPEED, HARD, JERK = (np.array(x) for x in ([-2.0, -2], [2.0, 2], [2.0, 1], [8.0, 6], [160.0, 90]))


@pytest.fixture
def board():
    board = TrajectoryBoard(2)
    yield board
    board.close()


def moving():
    """0.9 s from 0 to (0.8, -0.4) by the quintic that rests at both ends."""
    s = np.linspace(0, 1, 91)[:, None]
    goal = np.array([0.8, -0.4])
    return Trajectory(0, STEP, s**3 * (10 + s * (6 * s - 15)) * goal, 30 * s**2 * (s - 1) ** 2 * goal / 0.9)


def resting(place):
    return Trajectory(0, STEP, np.repeat([place], 2, axis=0), np.zeros((2, 2)))


def play(board, until_tick, then):
    """Commands (ticks, 2, joints) at HZ: the motion, and from `until_tick` on what `then(player, time)` says."""
    player, said = Player(board, Guard(Limits(LOW, HIGH, SPEED, HARD, JERK))), []
    board.play(True)
    board.write(moving(), join=0)
    for tick in range(until_tick):
        said.append(player.command(tick / HZ, tick / HZ))
    for tick in range(until_tick, until_tick + 2000):
        said.append(then(player, tick / HZ))
    return said


def assert_smooth(commands):
    p, v = np.swapaxes(commands, 0, 1)
    a = np.diff(v, axis=0) * HZ
    assert (np.abs(v) <= SPEED * (1 + 2 * SLACK)).all() and (np.abs(a) <= HARD * (1 + 2 * SLACK)).all()
    assert (np.abs(np.diff(a, axis=0)) * HZ <= JERK * 1.01 + 1e-6).all()
    np.testing.assert_allclose(np.diff(p, axis=0), (v[1:] + v[:-1]) / (2 * HZ), atol=JERK.max() / HZ**3 / 6)


@pytest.mark.parametrize("at", [0.05, 0.3, 0.45, 0.7, 0.89])
def test_what_is_silenced_comes_to_rest_then_says_nothing(board, at):
    def silent(player, time):
        board.play(False)
        return player.command(time, time)

    said = play(board, round(at * HZ), silent)
    commands = np.array([c for c in said if c is not None])
    assert_smooth(commands)
    assert len(commands) - at * HZ < 0.6 * HZ and not commands[-1][1].any()
    assert all(c is None for c in said[len(commands) :])  # once silent, for good


@pytest.mark.parametrize("asleep", np.arange(0.005, 0.8, 0.045))
def test_whenever_the_player_wakes_up_the_first_command_is_the_measured_state(board, asleep):
    """The node's side of Stream.offer, while the process that plays sleeps: rest at the measured state, then motions
    that leave it, each offered 0.08 s before its join and taken back after 0.1 s without an answer."""
    place, offers = np.array([0.3, -0.1]), {0: (resting([0.3, -0.1]), ANY_TIME)}
    for tick in (48, 144, 240, 336):  # a chunk every 0.2 s
        motion, join = moving(), round((tick / HZ + 0.08) / STEP)
        offers[tick] = Trajectory(join, STEP, motion.positions + place, motion.velocities), join
    player = Player(board, Guard(Limits(LOW, HIGH, SPEED, HARD, JERK)))
    board.play(True)
    said, offered = [], (0, 0)  # tick, generation
    for tick in range(600):
        if tick in offers and not said:
            offered = tick, board.write(*offers[tick])
        if offered[0] and tick == offered[0] + 48 and board.taken != offered[1]:
            board.withdraw()
        if tick / HZ >= asleep:
            command = player.command(tick / HZ, tick / HZ)
            said += [] if command is None else [command]
    np.testing.assert_allclose(said[0], [place, [0, 0]], atol=1e-12)
    assert_smooth(np.array(said))


def test_what_is_at_rest_is_silent_at_once_and_a_new_motion_begins_anywhere(board):
    def silent(player, time):
        board.play(False)
        return player.command(time, time)

    said = play(board, round(1.2 * HZ), silent)
    assert all(c is None for c in said[round(1.2 * HZ) :])

    def elsewhere(player, time):
        board.play(True)
        return player.command(time, time)

    player = Player(board, Guard(Limits(LOW, HIGH, SPEED, HARD, JERK)))
    board.write(resting([1.0, 1.0]), ANY_TIME)
    np.testing.assert_array_equal(elsewhere(player, 9.0), [[1.0, 1.0], [0.0, 0.0]])


def test_a_motion_that_begins_while_the_last_one_still_comes_to_rest_is_approached(board):
    """A wall clock that jumped: the node falls silent, and begins anew with what it measures."""
    place = np.array([0.45, -0.2])

    def again(player, time):
        board.play(False)
        if time > 0.48:
            if not board.playing and board.generation == 1:
                board.write(resting(place), ANY_TIME)
            board.play(True)
        return player.command(1000.0 + time, time)

    said = play(board, round(0.45 * HZ), again)
    commands = np.array([c for c in said if c is not None])
    assert len(commands) == len(said)
    assert_smooth(commands)
    np.testing.assert_allclose(commands[-1], [place, [0, 0]], atol=1e-4)


def test_a_simulated_clock_that_goes_back_ends_it_at_once(board):
    def back(player, time):
        board.play(False)
        return player.command(time - 5.0, time - 5.0)

    assert all(c is None for c in play(board, 200, back)[200:])
