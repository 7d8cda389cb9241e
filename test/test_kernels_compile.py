# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All Triton kernels compile for every GPU generation, with the tiles that it would get, and fit its shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton")

from pi_vla_ros.engine.fused.tuning import SHARED_MEMORY

KERNELS = {
    "attention_kernel", "columns_kernel", "fetch_kernel", "geglu_kernel", "join_kernel", "layer_norm_kernel",
    "linear_kernel", "moments_kernel", "noise_kernel", "patches_kernel", "qkv_kernel", "residual_kernel",
    "row_sums_kernel", "rows_kernel", "split_kernel", "text_kernel", "turn_kernel", "vision_attention_kernel",
}  # fmt: skip


CAPABILITIES = [80, 86, 89, 90, 100, 110, 120]
SCRIPT = Path(__file__).with_name("compile_kernels.py")


@pytest.fixture(scope="module")
def compilers(tmp_path_factory):
    """A process for each capability, as many at a time as there are processors."""
    path = f"{SCRIPT.parents[1]}:{os.environ.get('PYTHONPATH', '')}"

    def compile_for(capability: int) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp(f"sm{capability}"))}
        return subprocess.run([sys.executable, SCRIPT, str(capability)], env=env, capture_output=True, text=True)

    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    yield {capability: pool.submit(compile_for, capability) for capability in CAPABILITIES}
    pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles_and_fits(capability, compilers):
    ran = compilers[capability].result()
    assert ran.returncode == 0, ran.stderr[-3000:]
    compiled = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {k["name"] for k in compiled} == KERNELS
    too_large = [k for k in compiled if k["shared"] > SHARED_MEMORY[capability]]
    assert not too_large, f"sm_{capability} has {SHARED_MEMORY[capability]} bytes of shared memory"
