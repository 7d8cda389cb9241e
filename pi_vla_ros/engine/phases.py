# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Names for the parts of a step, for profilers: ranges of PyTorch's profiler and of NVTX.

They are opened where kernels are launched, so a replayed graph has none and pays nothing for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.profiler import record_function

PHASES = ("vision", "lang_pack", "prefix", "expert", "expert_step")


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """A range called `name`, one of PHASES."""
    marks = torch.cuda.nvtx.range(name) if torch.cuda.is_available() else contextlib.nullcontext()
    with record_function(name), marks:
        yield
