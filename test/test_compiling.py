# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A set-up compiles before it launches: what goes to which thread, with stand-ins for compilers and driver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from pi_vla_ros.kernels import cuda
from pi_vla_ros.kernels.compiling import only_compiled


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """What the driver was asked to launch; a kernel's function is its code."""
    names = []
    driver = SimpleNamespace(
        cuModuleLoadData=lambda module, code: setattr(module._obj, "value", int(code)),
        cuModuleGetFunction=lambda function, module, name: setattr(function._obj, "value", module.value),
        cuFuncSetAttribute=lambda *_: 0,
        cuLaunchKernelEx=lambda config, function, *_: names.append(function.value),
    )
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    monkeypatch.setattr(cuda, "source_of", lambda name, defines, mmas: str(defines["N"]))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    return names


def test_kernels_in_cuda_are_compiled_at_once_and_launched_later(launched, monkeypatch):
    together = threading.Barrier(3)  # breaks where one is waited for before the next is begun

    def machine_code(text: str, name: str) -> bytes:
        together.wait(timeout=60)
        return text.encode()

    monkeypatch.setattr(cuda, "machine_code", machine_code)
    with only_compiled():
        kernels = [cuda.Kernel("k", {"N": n}, ()) for n in (1, 2, 3)]
        for kernel in kernels:
            kernel(132, 384, [1])
        assert launched == []
    for kernel in kernels:
        kernel(132, 384, [1])
    assert launched == [1, 2, 3]


def test_what_does_not_compile_is_said_at_every_launch_but_not_before(launched, monkeypatch):
    def machine_code(text: str, name: str) -> bytes:
        raise RuntimeError("NVRTC: k.cu(1): error")

    monkeypatch.setattr(cuda, "machine_code", machine_code)
    with only_compiled():
        kernel = cuda.Kernel("k", {"N": 1}, ())
        kernel(132, 384, [])
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"k\.cu\(1\)"):
            kernel(132, 384, [])
    assert launched == []


@pytest.fixture
def asked(monkeypatch) -> list[bool]:
    """Of each launch of a Triton kernel, whether it only warms up."""
    warm = []
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *a, grid, warmup, **o: warm.append(warmup))
    return warm


def launch() -> None:
    JITFunction.run(None, grid=(1,), warmup=False)


def test_tritons_kernels_are_compiled_only(asked):
    with only_compiled():
        launch()
    launch()
    assert asked == [True, False]


def test_other_threads_launch_as_ever(asked):
    with only_compiled():
        other = threading.Thread(target=launch)
        other.start()
        other.join()
        launch()
    assert asked == [False, True]


def test_an_error_in_between_leaves_launching_as_it_was(asked):
    before = JITFunction.run
    with pytest.raises(ZeroDivisionError), only_compiled():
        raise ZeroDivisionError
    launch()
    assert JITFunction.run is before and asked == [False] and cuda.launches.get()
    with only_compiled():  # Triton's own mode has ended, too
        launch()
    assert asked == [False, True]


FOR_REAL = """
import compile_kernels, torch
from triton.runtime import driver
from pi_vla_ros.kernels.compiling import only_compiled
from pi_vla_ros.kernels.noise import draw, noise_kernel

driver.set_active(compile_kernels.NoGpu(90))
keys = torch.empty(1, 4, dtype=torch.int64, device="meta")
with only_compiled():
    for pdl in (True, False, True):
        draw(torch.empty(1, 50, 32, device="meta"), keys, torch.empty(1, device="meta"), pdl=pdl)
print(*(k.asm["cubin"][:4] == b"\\x7fELF" for k in noise_kernel.device_caches[0][0].values()))
"""


@pytest.mark.slow
def test_tritons_compiler_works_so(tmp_path):
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{here.parent}:{here}", "TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", FOR_REAL], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == ["True", "True"]  # compiled for real, each once
