# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Robot units -> the units that a policy was trained in, joint by joint."""

from __future__ import annotations

import numpy as np

from pi_vla_ros.robot import RobotConfig

# ALOHA's gripper, as openpi converts it (`adapt_to_pi`): opening 0..1 -> finger position in m -> angle of the motor's
# horn -> 0..1 between the angles of a closed and an open π0 gripper.
FINGER = 0.01844, 0.05800  # m, closed and open
ARM, HORN = 0.036, 0.022  # m, of the slider crank between motor and finger
ANGLE = 0.5476, 1.6296  # rad, closed and open


def policy_state(robot: RobotConfig, state: np.ndarray) -> np.ndarray:
    """What is measured (`RobotConfig.measured_names`,), robot units -> (state entries,) policy units. Raises ValueError
    on a wrong shape."""
    entries, count = robot.state_entries, len(robot.measured_names)
    if np.shape(state) != (count,):
        raise ValueError(f"state: must have {count} entries, has shape {np.shape(state)}")
    seen = state[: len(entries)]  # the policy's come first
    grippers = np.array([e.state.kind == "aloha_gripper" for e in entries])
    values = np.where(grippers, aloha_gripper(seen), seen)
    return np.array([e.state.scale for e in entries]) * values + np.array([e.state.offset for e in entries])


def aloha_gripper(opening: np.ndarray) -> np.ndarray:
    """Opening 0..1 -> normalised motor angle."""
    finger = FINGER[0] + opening * (FINGER[1] - FINGER[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        sine = (HORN**2 + finger**2 - ARM**2) / (2 * HORN * finger)
    angle = np.arcsin(np.clip(sine, -1.0, 1.0))
    return (angle - ANGLE[0]) / (ANGLE[1] - ANGLE[0])
