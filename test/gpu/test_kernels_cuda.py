# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Each Triton kernel against the PyTorch function that it equals, on a GPU: the interpreter's cases in bf16 and fp32
(the tensor cores' tf32), and the tiles that this GPU uses at their edges. Inputs are new in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from kernel_cases import (
    CASES,
    Bench,
    attention_case,
    linear_case,
    qkv_case,
    residual_case,
    run_case,
    split_case,
    vision_attention_case,
)

from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.kernels.common import chained

CUDA = torch.device("cuda")
TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 2e-3}


def bench(dtype: torch.dtype) -> Bench:
    seed = random.SystemRandom().getrandbits(31)
    print("seed", seed)  # shown when a test fails
    return Bench(CUDA, dtype, pdl=chained(CUDA), seed=seed)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", CASES)
def test_equals_pytorch(name, dtype):
    run_case(name, bench(dtype), TOLERANCE[dtype])


def edges(robots: int) -> Iterator:
    """(name, dtype, case, sizes, options): a row less and a row more than a tile, a bit more than one in the others."""
    t = tuning_for(CUDA, robots)
    products = {
        "patches": (linear_case, {"bias": True, "repeat": 5}),
        "projector": (linear_case, {"bias": True, "sums": True}),
        "prefix_out": (linear_case, {"sums": True}),
        "expert_up": (linear_case, {"norm": True, "bias": True, "geglu": True}),
        "expert_out": (residual_case, {"gate": True, "before": False}),
        "expert_down": (residual_case, {"gate": False, "before": False}),
        "expert_mix": (residual_case, {"gate": False, "before": True}),
    }
    for name, (case, options) in products.items():
        tile = getattr(t, name)
        dtype = torch.float32 if name in ("patches", "expert_mix") else torch.bfloat16
        for m in (tile.bm - 1, tile.bm + 1):
            yield f"{name} {m}", dtype, case, (m, tile.bn + 16, tile.bk * tile.split + 16, tile), options
    for name in ("prefix_qkv", "prefix_kv", "expert_qkv"):
        tile = getattr(t, name)
        options = {"starts": [3, 9], "bias": True} if name == "expert_qkv" else {}
        yield name, torch.bfloat16, qkv_case, (2, tile.bm // 2 + 1, 2, 256, tile.bk + 16, tile), options
    at = t.vision_attention
    yield "vision_attention", torch.bfloat16, vision_attention_case, (2, at.bm + at.bk + 1, 2, 72, at.bm, at.bk), {}
    at = t.prefix_attention
    lengths = [1, at.bk - 1, at.bk, at.bk + 1]
    yield "prefix_attention", torch.bfloat16, attention_case, (lengths, at.bm + 8, 256, 2 * at.bk, at.bm, at.bk), {}
    at = t.expert_attention
    piece = at.bk * at.blocks
    sizes = ([0, piece - 9, piece - 8, piece - 7], at.bm // 8 + 1, 8, 256, at.bm, at.bk, at.blocks)
    for state in (False, True):
        yield f"expert_attention {state}", torch.bfloat16, split_case, (*sizes, state), {}


@pytest.mark.parametrize(
    ("dtype", "case", "sizes", "options"),
    [pytest.param(*rest, id=f"{name}, {robots} robots") for robots in (1, 4) for name, *rest in edges(robots)],
)
def test_tiles_of_this_gpu_at_their_edges(dtype, case, sizes, options):
    b = bench(dtype)
    b.check(case(b, *sizes, **options), TOLERANCE[dtype])
