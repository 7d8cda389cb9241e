# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the operating system can do for a process that must keep time, as far as it is allowed."""

from __future__ import annotations

import ctypes
import gc
import os

PRIORITY = 50  # SCHED_FIFO, below the kernel's own threads
MCL_CURRENT, MCL_FUTURE = 1, 2


def keep_time() -> str | None:
    """Real-time priority, memory locked, garbage collector frozen. None, or one sentence on what was not allowed."""
    gc.collect()
    gc.freeze()
    gc.disable()
    missing = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except (OSError, AttributeError):
        missing.append("real-time priority (ulimit -r / rtprio)")
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlockall") or libc.mlockall(MCL_CURRENT | MCL_FUTURE):
        missing.append("locked memory (ulimit -l / memlock)")
    if not missing:
        return None
    return f"not allowed: {' and '.join(missing)}; commands may be late under load. See /etc/security/limits.conf"
