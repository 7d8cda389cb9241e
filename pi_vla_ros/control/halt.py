# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The quickest stop under velocity, acceleration and jerk limits, by ruckig."""

from __future__ import annotations

import math

import numpy as np

from pi_vla_ros.control.limiter import Limits

try:
    import ruckig
except ImportError:  # the planner then brakes by its own, a little longer
    ruckig = None


def halt(p: np.ndarray, v: np.ndarray, a: np.ndarray, limits: Limits, h: float) -> tuple[np.ndarray, np.ndarray] | None:
    """From position, velocity and acceleration (joints,) to rest, each joint as soon as it can: positions and
    velocities after each step of h, (steps, joints), of a curve with constant jerk in each. limits.jerk is finite.
    None where ruckig is not installed or finds no way.

    ruckig's profile changes its jerk at any time, ours at steps: the acceleration at a step is the mean of ruckig's
    over the step before. That lags by half a step, so ruckig starts from half a step later; the velocity then ends
    at zero exactly, and no limit is passed by a mean.
    """
    if ruckig is None:
        return None
    profile = _profile(v + a * (h / 2), a, limits)
    if profile is None:
        return None
    steps = math.ceil(profile.duration / h - 1e-9) + 1
    speeds = np.array([profile.at_time(k * h)[1] for k in range(steps + 1)])
    speeds[-2:] = 0.0
    speeds = np.vstack([speeds[0] - a * h, speeds])
    accelerations = np.diff(speeds, axis=0) / h  # at step 0, 1, ...
    before, after = accelerations[:-1], accelerations[1:]
    velocities = v + np.cumsum((before + after) * (h / 2), axis=0)
    velocities[-1] = 0.0
    starts = np.vstack([v, velocities[:-1]])
    positions = p + np.cumsum(starts * h + (2 * before + after) * (h * h / 6), axis=0)
    return positions, velocities


def _profile(v: np.ndarray, a: np.ndarray, limits: Limits):
    """ruckig's fastest way to rest, or None."""
    joints = len(v)
    request = ruckig.InputParameter(joints)
    request.control_interface = ruckig.ControlInterface.Velocity
    request.synchronization = ruckig.Synchronization.No
    request.current_position = [0.0] * joints
    request.current_velocity, request.current_acceleration = v.tolist(), a.tolist()
    request.target_velocity = request.target_acceleration = [0.0] * joints
    request.max_acceleration, request.max_jerk = limits.acceleration.tolist(), limits.jerk.tolist()
    profile = ruckig.Trajectory(joints)
    try:
        found = ruckig.Ruckig(joints).calculate(request, profile)
    except (ruckig.RuckigError, ValueError):  # it refuses what is itself beyond the limits, some of it without a name
        return None
    return profile if found in (ruckig.Result.Working, ruckig.Result.Finished) else None
