# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The examples as a reader starts them, with a toy model on the CPU; and that FAIL is possible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the numbers are a CPU's")


def start(*command: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_passes(model):
    ran = start(EXAMPLES / f"run_{model}.py", "--tiny")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "PASS"
    for batch in (1, 4):
        (line,) = re.findall(rf"batch {batch}: mean (.*)", ran.stdout)
        mean, median, std, least, most, count = map(float, re.findall(r"[\d.]+", line))
        assert least <= median <= most and least <= mean <= most and std > 0 and count == 30


def test_without_a_gpu_it_says_what_to_do():
    ran = start(EXAMPLES / "run_pi0.py")
    assert ran.returncode == 1 and "--tiny" in ran.stderr


@pytest.mark.parametrize("part", ["batch 4 and batch 1", "the fp32 reference"])
def test_a_wrong_robot_fails(part, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["run_pi05.py", "--tiny"])
    import common
    import run_pi05

    from pi_vla_ros.engine import Engine

    step = Engine.step

    def wrong(engine, request):
        actions = step(engine, request).clone()
        if part == "the fp32 reference":
            return actions * 1.01
        if len(actions) == 4:
            actions[2] *= 1.01
        return actions

    monkeypatch.setattr(Engine, "step", wrong)
    monkeypatch.setattr(common, "TIMED", 2)
    threads = torch.get_num_threads()
    code = common.run("pi05", run_pi05.PI05Args, run_pi05.PI05, run_pi05.request)
    torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert code == 1 and told.splitlines()[-1] == "FAIL" and re.search(f"{part}: .*DIFFERENT", told)
