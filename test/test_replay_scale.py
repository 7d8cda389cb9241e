# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Long recordings, many recordings, runs that are killed: memory stays, results do not depend on how they were made."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from long_bag import CAMERA_HZ, HEIGHT, WIDTH, write_long_bag
from replay_rig import Knows, messages, write_bag
from rosbags.rosbag2 import StoragePlugin

from pi_vla_ros.cli.replay import main
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.episode import Evaluation
from pi_vla_ros.replay.thinned import Thinned

SAME = ("summary.json", "metrics.csv", "metrics.parquet")


class Forgets(Knows):
    def infer(self, observation, previous=None, delay=0.0):
        self.seen.clear()
        return super().infer(observation)


def peak(path, robot) -> float:
    """MB that an evaluation needs at most, policy and libraries aside."""
    tracemalloc.start()
    try:
        Evaluation(BagSource(path, robot), robot, Forgets(0.1), np.ones(8), "", [0.033]).run(lambda done: None)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_memory_does_not_grow_with_the_recording(storage, sim_robot, tmp_path):
    short, long = (write_long_bag(tmp_path / f"{s}", s / 60, storage) for s in (10, 30))
    more = 20 * CAMERA_HZ * 3 * HEIGHT * WIDTH * 3 / 2**20  # MB of pixels
    assert more > 11
    first = peak(short, sim_robot)
    assert peak(long, sim_robot) - first < 0.1 * more, first


def test_what_is_kept_is_bounded_and_spread():
    kept = Thinned(100)
    for k in range(12345):
        kept.add(k)
    assert 50 <= len(kept.items) <= 100
    assert kept.items[0] == 0 and len(set(np.diff(kept.items))) == 1 and kept.items[-1] > 12000


@pytest.fixture(scope="module")
def bags(sim_robot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for k in range(3):
        write_bag(folder / f"episode_{k}", messages(sim_robot.joint_names, 2.0 + k, "joint_trajectory"))
    return folder


def arguments(checkpoint, bags, out, *more):
    common = ["--robot", "sim", "--checkpoint", checkpoint, "--steps", 1, "--target", "cpu", "--no-delays"]
    return [*map(str, common), "--bag", str(bags), "--out", str(out), *map(str, more)]


@pytest.fixture(scope="module")
def undisturbed(tiny_checkpoint, bags, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main(arguments(tiny_checkpoint(), bags, out)) == 0
    return out


REPLAY = [sys.executable, "-m", "pi_vla_ros.cli.replay"]
# A process begins with the memory of the one that it was forked from: this one is small, the tests' own is not.
WATCHED = """import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)"""


def start(given, **more):
    command = [*REPLAY, *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_in_the_middle_it_goes_on(undisturbed, tiny_checkpoint, bags, tmp_path, capsys):
    out = tmp_path / "out"
    given = arguments(tiny_checkpoint(), bags, out)
    killed = start(given)
    while not list(out.glob("bags/episode_*/summary.json")):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(list(out.glob("bags/episode_*/summary.json")))
    assert 1 <= done < 3 and not (out / "summary.json").exists()
    assert main(given) == 0
    assert f"{done} of 3 recordings are evaluated already" in capsys.readouterr().out
    assert [p for p in out.rglob(".*") if p.name.endswith(".part")] == []
    for name in SAME:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    report = (out / "report.html").read_bytes()
    assert main(given) == 0 and (out / "report.html").read_bytes() == report


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_ray(undisturbed, tiny_checkpoint, bags, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home folder
    out = tmp_path / "out"
    (bags / "broken.mcap").write_bytes(b"\x89MCAP0\r\nnothing more")
    try:
        assert main(arguments(tiny_checkpoint(), bags, out, "--ray", "--jobs", 2)) == 1
    finally:
        (bags / "broken.mcap").unlink()
    found, expected = (json.loads((folder / "summary.json").read_text()) for folder in (out, undisturbed))
    assert found["episodes"] == expected["episodes"] and found["errors"] == expected["errors"]
    assert (out / "metrics.parquet").read_bytes() == (undisturbed / "metrics.parquet").read_bytes()


def test_ray_is_asked_for_where_it_is_not(tiny_checkpoint, bags, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as ended:
        main(arguments(tiny_checkpoint(), bags, tmp_path / "out", "--ray"))
    assert ended.value.code == 2 and "--ray needs Ray: pip install ray" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "file"), [(8_000, "arrays.npz"), (200_000, "report.html")])
def test_a_disk_that_takes_no_more(allowed, file, tiny_checkpoint, bags, tmp_path):
    """Files may have so many bytes: what is complete stays, nothing is half written, and the next run goes on."""
    out = tmp_path / "out"
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))}
    given = arguments(tiny_checkpoint(), bags / "episode_0", out)
    full = start(given, **limit)
    told = full.communicate()[1]
    assert full.returncode == 2 and "File too large" in told and "Traceback" not in told
    assert file in told or str(out) in told
    left = [p.name for p in out.rglob("*") if p.is_file()]
    assert not [name for name in left if name == file or name.endswith(".part")]
    assert main(given) == 0 and (out / "report.html").stat().st_size > 200_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_resident_memory_of_the_command(tiny_checkpoint, tmp_path):
    """1 and 4 minutes: 112 MB of pixels more."""
    used = []
    for minutes in (1, 4):
        bag = write_long_bag(tmp_path / f"{minutes}", minutes)
        given = [*REPLAY, *arguments(tiny_checkpoint(), bag, tmp_path / f"out-{minutes}")]
        done = subprocess.run([sys.executable, "-c", WATCHED, *map(str, given)], stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0
        used.append(int(done.stdout.split()[-1]) / 1024)
    assert used[1] - used[0] < 40 and used[1] < 2000, used
