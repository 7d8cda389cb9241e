# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Limits that nothing meets, for tests of what plays trajectories."""

import numpy as np

from pi_vla_ros.control.limiter import Limits


def boundless(joints: int) -> Limits:
    return Limits(*(np.full(joints, value) for value in (-1e9, 1e9, 1e9, 1e12, 1e15)))
