# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Each Triton kernel against the PyTorch function that it equals, on the CPU interpreter in fp32 and fp16."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import kernel_cases
import triton
from kernel_cases import CASES, Bench, run_case

import pi_vla_ros.kernels

if not triton.knobs.runtime.interpret:
    pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1", allow_module_level=True)

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equals_pytorch(name, dtype):
    run_case(name, Bench(CPU, dtype, seed=len(name)), TOLERANCE[dtype])


@pytest.mark.parametrize("spoil", [lambda y: y * 1.0001, lambda y: y.index_fill(0, torch.tensor([0]), float("nan"))])
def test_a_wrong_result_is_found(spoil):
    y = torch.randn(4, 4)
    with pytest.raises(AssertionError, match="relative error"):
        Bench(CPU, torch.float32).check([("y", spoil(y), y)], TOLERANCE[torch.float32])


def test_a_row_too_many_is_found():
    bench = Bench(CPU, torch.float32)
    room = bench.room(2, 4)
    torch.as_strided(room, (3, 4), (4, 1)).zero_()
    with pytest.raises(AssertionError, match="outside"):
        bench.check([], 1.0)


def test_every_kernel_has_a_case():
    launched_by = {"split_kernel": "split_attention", "join_kernel": "split_attention", "noise_kernel": "draw",
                   "moments_kernel": "row_moments"}  # fmt: skip
    for module in pkgutil.iter_modules(pi_vla_ros.kernels.__path__, "pi_vla_ros.kernels."):
        own_test = Path(__file__).with_name(f"test_kernels_{module.name.rpartition('.')[2]}.py")
        for name in vars(import_module(module.name)):
            if name.endswith("_kernel") and not own_test.exists():
                function = launched_by.get(name, name.removesuffix("_kernel"))
                assert hasattr(kernel_cases, function), f"{module.name}: {name} has no case"
