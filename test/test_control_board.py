# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The shared trajectory and its player, within one process and between two."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from boundless import boundless

from pi_vla_ros.control.board import ANY_TIME, CAPACITY, TrajectoryBoard
from pi_vla_ros.control.guard import Guard
from pi_vla_ros.control.pacer import Intervals, Pacer
from pi_vla_ros.control.player import Player
from pi_vla_ros.types import Trajectory

STEP = 0.01


def trajectory(first=0, knots=20, value=0.0):
    positions = value + np.linspace(0, 1, knots)[:, None] * [1.0, 2.0]
    velocities = np.full((knots, 2), 0.1)
    velocities[-1] = 0
    return Trajectory(first, STEP, positions, velocities)


def test_what_is_written_is_read():
    board = TrajectoryBoard(2)
    other = TrajectoryBoard(2, os.dup(board.descriptor))
    assert board.write(trajectory(7), join=9) == 1
    generation, read, join = other.read()
    assert (generation, join, read.first, read.step) == (1, 9, 7, STEP)
    np.testing.assert_array_equal(read.positions, trajectory().positions)
    np.testing.assert_array_equal(read.velocities, trajectory().velocities)
    other.close()
    board.close()


def test_a_trajectory_half_written_is_not_read():
    board = TrajectoryBoard(2)
    board.write(trajectory(), 0)
    board._integers[0] += 1  # as while writing
    assert board.read() is None
    board._integers[0] += 1
    board._data[0, 3, 1] += 1e-9  # a torn copy: the checksum tells
    assert board.read() is None
    board.close()


def test_a_trajectory_that_is_too_long_is_refused():
    board = TrajectoryBoard(2)
    with pytest.raises(ValueError, match=r"motion\.plan_hz"):
        board.write(trajectory(knots=CAPACITY + 1), 0)
    board.close()


def test_an_offer_that_was_withdrawn_is_not_taken():
    board = TrajectoryBoard(2)
    player = Player(board, Guard(boundless(2)))
    board.play(True)
    board.write(trajectory(), join=100)
    player.command(0.0, 0.0)
    second = board.write(trajectory(value=1.0), join=100)
    board.withdraw()
    assert player.command(0.01, 0.01)[0][0] < 0.9 and (board.taken, board.refused) == (1, second)
    board.close()


def test_a_first_offer_that_came_too_late_or_was_withdrawn_is_not_taken():
    """The player slept while the rest that it was to begin with was replaced."""
    board = TrajectoryBoard(2)
    player = Player(board, Guard(boundless(2)))
    board.play(True)
    board.write(trajectory(), ANY_TIME)
    late = board.write(trajectory(value=5.0), join=10)
    assert player.command(0.11, 0.11) is None and (board.taken, board.refused) == (0, late)
    withdrawn = board.write(trajectory(value=5.0), join=30)
    board.withdraw()
    assert player.command(0.12, 0.12) is None and (board.taken, board.refused) == (0, withdrawn)
    early = board.write(trajectory(value=5.0), join=13)
    assert player.command(0.13, 0.13) is not None and board.taken == early
    board.close()


def test_player_is_silent_until_told_and_then_takes_offers_only_before_their_join():
    board = TrajectoryBoard(2)
    player = Player(board, Guard(boundless(2)))
    board.write(trajectory(), ANY_TIME)
    assert player.command(0.05, 0.05) is None and board.taken == 0
    board.play(True)
    positions, velocities = player.command(0.05, 0.05)
    np.testing.assert_allclose(positions[1], 2 * positions[0])
    np.testing.assert_allclose(velocities, 0.1, atol=1e-12)  # at a knot
    assert board.taken == 1
    second = board.write(trajectory(value=5.0), join=10)
    assert player.command(0.11, 0.11)[0][0] < 2.0 and board.refused == second and board.taken == 1  # 0.11 > 10 * STEP
    third = board.write(trajectory(value=5.0), join=13)
    assert player.command(0.12, 0.12)[0][0] > 4.0 and board.taken == third
    assert player.remaining(0.15) == pytest.approx(0.04) and player.remaining(0.19) == 0
    assert (player.command(0.5, 0.5)[1] == 0).all()  # beyond its end it rests
    board.play(False)
    assert player.command(0.16, 0.16) is None and player.remaining(0.16) == 0
    board.close()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_player_never_takes_what_is_not_finite(value):
    board = TrajectoryBoard(2)
    player = Player(board, Guard(boundless(2)))
    board.play(True)
    for poisoned in ("positions", "velocities"):
        offer = trajectory()
        getattr(offer, poisoned)[5, 1] = value
        generation = board.write(offer, join=0)
        assert player.command(0.0, 0.0) is None and board.refused == generation
    board.write(trajectory(), join=0)
    good = player.command(0.0, 0.0)
    offer = trajectory()
    offer.positions[-1, 0] = value
    board.write(offer, join=100)
    np.testing.assert_array_equal(player.command(0.0, 0.0), good)
    board.close()


def test_memory_is_gone_with_its_last_process():
    """kill -9 of the child and an exit without close of the parent leave nothing behind in /dev/shm."""
    before = set(os.listdir("/dev/shm"))
    child = subprocess.Popen(
        [sys.executable, "-c", "from pi_vla_ros.control.board import TrajectoryBoard as B; b = B(2); "
         "import time; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert set(os.listdir("/dev/shm")) <= before


def test_pacer_keeps_absolute_deadlines_and_skips_what_it_missed():
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds

    pacer = Pacer(100.0, clock=lambda: clock[0], sleep=sleep)
    ticks = []
    for busy in (0.0, 0.004, 0.009, 0.035, 0.0, 0.0):
        clock[0] += busy
        missed = pacer.wait()
        ticks.append((round(clock[0], 6), missed))
    # after 35 ms of delay: three ticks are gone, the next ones stay on the grid of 10 ms
    assert ticks == [(0.01, 0), (0.02, 0), (0.03, 0), (0.065, 2), (0.07, 0), (0.08, 0)]


def test_intervals():
    intervals = Intervals(keep=100)
    assert intervals.percentiles() == (0.0, 0.0, 0.0, 0.0)
    for t in [0.0, 0.002, 0.004, 0.009]:
        intervals.mark(t)
    intervals.pause()
    intervals.mark(100.0)
    p50, p99, p999, longest = intervals.percentiles()
    assert p50 == pytest.approx(2.0) and longest == pytest.approx(5.0) and p50 < p99 < p999 <= longest
