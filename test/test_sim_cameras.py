# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the simulated cameras see, when they see it, and what faults do to them."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from pi_vla_ros.robot import load_robot
from pi_vla_ros.sim import gl
from pi_vla_ros.sim.arm import SimArm
from pi_vla_ros.sim.cameras import FARTHEST, Cameras, _Schedule
from pi_vla_ros.sim.faults import Fault, Faults
from pi_vla_ros.sim.realtime import Snapshot
from pi_vla_ros.sim.view import View

SIZE = (96, 72)


@pytest.fixture(scope="module", autouse=True)
def _rendering():
    try:
        gl.choose_backend()
    except gl.RenderingUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["aloha", "droid", "sim", "so101", "ur5e"])
def arm(request):
    arm = SimArm(load_robot(request.param))
    yield arm
    arm.close()


def test_each_camera_sees_something_else_and_sees_the_arm_move(arm):
    def look():
        return {slot: arm.render(slot, *SIZE) for slot in arm.robot.cameras}

    before = look()
    for image in before.values():
        assert image.shape == (SIZE[1], SIZE[0], 3)
        assert image.dtype == np.uint8
        assert 40 < image.mean() < 215
        assert image.std() > 15
    views = list(before.values())
    for i, a in enumerate(views):
        for b in views[:i]:
            assert np.abs(a.astype(int) - b).mean() > 5
    again = look()
    arm.set_targets(arm.robot.home + 0.2)
    arm.step_to(1.0)
    for slot, image in look().items():
        assert np.array_equal(before[slot], again[slot])
        assert np.abs(image.astype(int) - before[slot]).mean() > 1


def test_rows_are_the_right_way_up():
    arm = SimArm(load_robot("sim"))
    image = arm.render("base_0_rgb", *SIZE).astype(int)
    arm.close()
    blue = image[..., 2] - image[..., 0]
    assert blue[:10].mean() > 10 > blue[-10:].mean()  # sky above, table below


def test_the_red_block_is_red():
    arm = SimArm(load_robot("sim"))
    image = arm.render("base_0_rgb", 256, 192).astype(int)
    arm.close()
    assert ((image[..., 0] > 120) & (image[..., 1] < 60) & (image[..., 2] < 60)).sum() > 20


def test_blocks_are_seen_to_move():
    arm = SimArm(load_robot("sim"))
    arm.step_to(2.0)  # at rest: the physics may have put them to sleep
    view = View(arm.scene, *SIZE)
    world = arm.world()
    before = view.draw(world, "base_0_rgb")
    world[arm.scene.blocks[0] + 2] += 0.1
    after = view.draw(world, "base_0_rgb")
    view.close()
    assert np.abs(after.astype(int) - before).max() > 50


def test_views_of_several_sizes_and_arms_live_side_by_side():
    one, two = SimArm(load_robot("sim")), SimArm(load_robot("aloha"))
    first = two.render("base_0_rgb", *SIZE)
    one.render("base_0_rgb", 64, 48)
    two.render("base_0_rgb", 64, 48)
    one.close()
    assert np.array_equal(first, two.render("base_0_rgb", *SIZE))
    two.close()


def test_an_image_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="image size"):
        SimArm(load_robot("sim")).render("base_0_rgb", 5000, 10)


# -- when


def test_frames_are_regular_but_for_their_jitter():
    schedule = _Schedule(0.05, 0.02, np.random.default_rng(0))
    times = []
    for _ in range(200):
        times.append(schedule.due)
        schedule.advance(schedule.due)
    off = np.array(times) - 0.02 - 0.05 * np.arange(200)
    assert np.abs(off).max() <= FARTHEST
    assert off.std() > 0.001
    assert schedule.skipped == 0


def test_frames_that_are_missed_are_not_caught_up():
    schedule = _Schedule(0.1, 0.0, np.random.default_rng(0))
    schedule.advance(0.45)  # frame 0 was taken 0.45 s late: 1 to 3 are gone, 4 is due
    assert schedule.skipped == 3
    assert schedule.due == pytest.approx(0.4, abs=FARTHEST)


def run(rates, faults=(), seconds=1.2):
    """(slot, stamp, pixels, s since start) of what arrives from cameras around a moving arm."""
    arm = SimArm(load_robot("sim"))
    start, arrived, stop = time.monotonic(), [], threading.Event()

    def newest():
        elapsed = time.monotonic() - start
        world = arm.world()
        world[arm.scene.qpos[0]] = np.sin(3 * elapsed)
        return Snapshot(elapsed, 1000.0 + elapsed, arm.positions(), arm.velocities(), world)

    def send(slot, stamp, pixels):
        arrived.append((slot, stamp, pixels, time.monotonic() - start))

    cameras = Cameras(arm.scene, rates, SIZE, newest, send, Faults(faults), seed=1)
    thread = threading.Thread(target=cameras.run, args=(stop,))
    thread.start()
    assert cameras.ready.wait(30)
    start = time.monotonic()
    time.sleep(seconds)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    return arrived


def test_each_camera_runs_at_its_own_rate():
    arrived = run({"base_0_rgb": 20.0, "left_wrist_0_rgb": 10.0})
    for slot, expected in (("base_0_rgb", 24), ("left_wrist_0_rgb", 12)):
        stamps = [stamp for s, stamp, *_ in arrived if s == slot]
        assert expected / 3 < len(stamps) <= expected + 2
        assert all(b > a for a, b in pairwise(stamps))


def test_a_dropped_camera_is_silent_and_the_other_is_not():
    arrived = run({"base_0_rgb": 20.0, "left_wrist_0_rgb": 20.0}, [Fault("drop", "base_0_rgb", 0.4, 9)])
    assert max(stamp for s, stamp, *_ in arrived if s == "base_0_rgb") < 1000.4
    assert max(stamp for s, stamp, *_ in arrived if s == "left_wrist_0_rgb") > 1000.4


@pytest.mark.parametrize("kind", ["freeze", "repeat"])
def test_a_frozen_camera_sends_old_pixels(kind):
    arrived = run({"base_0_rgb": 20.0}, [Fault(kind, "base_0_rgb", 0.4, 9)])
    ok = [frame for frame in arrived if frame[3] < 0.38]
    stuck = [frame for frame in arrived if frame[3] > 0.45]
    assert len(ok) > 1 and len(stuck) > 1
    assert not np.array_equal(ok[0][2], ok[-1][2])
    assert all(np.array_equal(frame[2], stuck[0][2]) for frame in stuck)
    stamps = {frame[1] for frame in stuck}
    assert len(stamps) == (len(stuck) if kind == "freeze" else 1)


def test_delayed_frames_are_late_and_in_order_and_say_so():
    arrived = run({"base_0_rgb": 20.0}, [Fault("delay", "base_0_rgb", 0.3, 0.6, 0.4)])
    late = [(at - (stamp - 1000), stamp) for _, stamp, _, at in arrived if 0.3 <= stamp - 1000 < 0.6]
    assert late
    assert min(delay for delay, _ in late) >= 0.39
    stamps = [frame[1] for frame in arrived]
    assert stamps == sorted(stamps)


# -- without OpenGL


def test_without_opengl_the_error_names_the_packages(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # undone at the end, whatever was there
    monkeypatch.setattr(gl, "_loads", lambda name: False)
    gl.choose_backend.cache_clear()
    with pytest.raises(gl.RenderingUnavailable) as error:
        gl.choose_backend()
    for word in ("libegl1 libgl1", "libosmesa6", "libEGL.so.1 is not installed", "apt-get install"):
        assert word in str(error.value)


def test_a_backend_that_gives_no_context_is_passed_over(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # undone at the end, whatever was there
    monkeypatch.setattr(gl, "_loads", lambda name: True)
    monkeypatch.setattr(gl, "_failure", lambda backend: "no driver" if backend == "egl" else None)
    gl.choose_backend.cache_clear()
    try:
        assert gl.choose_backend() == "osmesa"
    finally:
        gl.choose_backend.cache_clear()


def test_the_user_may_choose(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    gl.choose_backend.cache_clear()
    assert gl.choose_backend() == "osmesa"
    gl.choose_backend.cache_clear()
