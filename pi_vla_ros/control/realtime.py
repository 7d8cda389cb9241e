# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the operating system can do for a process that must keep time, as far as it is allowed."""

from __future__ import annotations

import ctypes
import gc
import os

PRIORITY = 50  # SCHED_FIFO, below the kernel's own threads
MCL_CURRENT, MCL_FUTURE = 1, 2


def keep_time(cpu: int | None = None) -> list[str]:
    """Real-time priority, memory locked, garbage collector frozen, on core `cpu` if one is given.

    Returns a sentence for each thing that was not allowed.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    refused, missing = [], []
    if cpu is not None:
        try:
            os.sched_setaffinity(0, {cpu})
        except (OSError, AttributeError):
            allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "any"
            refused.append(f"output.cpu: core {cpu} is not there or not allowed; running on any of {allowed}")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except (OSError, AttributeError):
        missing.append("real-time priority (ulimit -r / rtprio)")
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlockall") or libc.mlockall(MCL_CURRENT | MCL_FUTURE):
        missing.append("locked memory (ulimit -l / memlock)")
    if missing:
        refused.append(
            f"not allowed: {' and '.join(missing)}; commands may be late under load. See /etc/security/limits.conf"
        )
    return refused
