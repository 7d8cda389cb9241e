# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All kernels that a set-up needs compiled at once: one after the other they take most of a first start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from triton.runtime._async_compile import AsyncCompileMode
from triton.runtime.jit import JITFunction

from pi_vla_ros.kernels import cuda


@contextmanager
def only_compiled() -> Iterator[None]:
    """What this thread launches in here is compiled, in threads, and does not run; PyTorch's own operations do run.

    At the end Triton's kernels are there; those in CUDA are waited for where they are first launched. What does not
    compile says so when it is launched."""
    run = JITFunction.run

    def compile_only(kernel, *arguments, grid, warmup, **options):
        return run(kernel, *arguments, grid=grid, warmup=warmup or not cuda.launches.get(), **options)

    before = cuda.launches.set(False)
    JITFunction.run = compile_only
    try:
        with (
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
            AsyncCompileMode(threads, ignore_errors=True),
        ):
            yield
    finally:
        JITFunction.run = run
        cuda.launches.reset(before)
