# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What keeps the node from configuring: each with a message for the person at the robot, exit code 1, no motion."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from boundless import boundless

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("pi_vla_ros.msg", reason="the messages are not built")

from ros_rig import PolicyProcess, start_ros

from pi_vla_ros.control.board import TrajectoryBoard
from pi_vla_ros.resources import package_file
from pi_vla_ros.ros.stream import StreamSpec

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def isolated():
    start_ros()


def _typo(tmp_path, checkpoint):
    text = package_file("config/robots/sim.yaml").read_text().replace("velocity:", "velocty:", 1)
    path = tmp_path / "typo.yaml"
    path.write_text(text)
    return {"robot": path, "checkpoint": checkpoint}


def _truncated(tmp_path, checkpoint):
    folder = tmp_path / "truncated"
    shutil.copytree(checkpoint, folder)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    return {"robot": "sim", "checkpoint": folder}


def _other_camera(tmp_path, checkpoint):
    text = package_file("config/robots/sim.yaml").read_text().replace("base_0_rgb:", "top_rgb:")
    path = tmp_path / "top.yaml"
    path.write_text(text)
    return {"robot": path, "checkpoint": checkpoint}


REFUSALS = {
    "no checkpoint": (lambda tmp, ok: {"robot": "sim"}, ["parameter checkpoint: is empty"]),
    "checkpoint is nowhere": (
        lambda tmp, ok: {"robot": "sim", "checkpoint": tmp / "none"},
        ["none", "does not exist"],
    ),
    "robot": (lambda tmp, ok: {"robot": "simm", "checkpoint": ok}, ["robot: 'simm' is not known", "sim, so101, ur5e"]),
    "description": (
        lambda tmp, ok: {"robot": "sim", "checkpoint": ok, "robot_description": "'<robot name=\"r\"/>'"},
        ["joints[0]: joint 'joint1' is not in parameter robot_description"],
    ),
    "typo": (_typo, ["typo.yaml: joints[0].velocty: unknown key", "did you mean 'velocity'?"]),
    "truncated": (_truncated, ["model.safetensors"]),
    "camera": (_other_camera, ["cameras: robot 'sim' has top_rgb", "base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb"]),
    "joints": (lambda tmp, ok: {"robot": "ur5e", "checkpoint": ok}, ["robot 'ur5e' has 7 joints", "8 dimensions"]),
    "model": (
        lambda tmp, ok: {"robot": "sim", "checkpoint": ok, "model": "pi0"},
        ["'pi0' asked for", "is 'pi05'"],
    ),
    "target": (
        lambda tmp, ok: {"robot": "sim", "checkpoint": ok, "target": "tpu"},
        ["target: is 'tpu'", "auto, cuda, cpu"],
    ),
    "prompt": (
        lambda tmp, ok: {"robot": "sim", "checkpoint": ok, "prompt": "'" + "pick " * 300 + "'"},
        ["tokens long"],
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory, tiny_checkpoint, request):
    """case -> (exit code, what the node said), of all cases that are run: a node is seconds of one core."""
    checkpoint = tiny_checkpoint()

    def refuse(case):
        folder = tmp_path_factory.mktemp("refusal")
        process = PolicyProcess(folder / "log", autostart="true", **REFUSALS[case][0](folder, checkpoint))
        try:
            return process.process.wait(60), process.said()
        finally:
            process.end()

    cases = [i.callspec.params["case"] for i in request.session.items if i.function is test_refusals]
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(refuse, case) for case in cases}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, refused):
    code, said = refused[case].result()
    assert code == 1 and "cannot configure" in said and "Traceback" not in said
    for word in REFUSALS[case][1]:
        assert word in said


def test_a_streamer_whose_node_is_gone_before_it_plays_ends(tmp_path):
    """kill -9 while the node still configures: nothing is left behind."""
    board = TrajectoryBoard(8)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    spec = StreamSpec("orphan", tuple("abcdefgh"), "/commands", 100.0, boundless(8))
    command = [sys.executable, "-m", "pi_vla_ros.ros.streamer", "--descriptor", str(board.descriptor)]
    command += ["--parent", str(gone.pid), "--spec", spec.text()]
    assert subprocess.run(command, pass_fds=[board.descriptor], timeout=60).returncode == 0
    board.close()
