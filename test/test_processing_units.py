# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Robot units and policy units, ALOHA's `adapt_to_pi` among them."""

import math

import numpy as np
import pytest

from pi_vla_ros.processing.units import aloha_gripper, policy_state
from pi_vla_ros.robot import load_robot


@pytest.mark.parametrize("opening", [0.0, 0.25, 0.5, 1.0])
def test_gripper_by_hand(opening):
    """The specification's formula, step by step, in plain Python."""
    p = 0.01844 + opening * (0.05800 - 0.01844)
    a = math.asin(min(1.0, max(-1.0, (0.022**2 + p**2 - 0.036**2) / (2 * 0.022 * p))))
    assert aloha_gripper(np.array([opening]))[0] == pytest.approx((a - 0.5476) / (1.6296 - 0.5476), abs=1e-12)


def test_openpi_aloha():
    robot = load_robot("aloha_openpi")
    state = np.linspace(0.1, 0.9, 14)
    signs = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
    expected = signs * state
    expected[[6, 13]] = aloha_gripper(state[[6, 13]])
    np.testing.assert_allclose(policy_state(robot, state), expected, atol=1e-12)
    arm = [j.action.scale for j in robot.joints if j.role == "arm"]
    assert arm == [1, -1, -1, 1, 1, 1] * 2
    for joint in (robot.joints[6], robot.joints[13]):
        for v in (-0.3, 0.0, 0.7):
            out = joint.action.scale * v + joint.action.offset
            assert out == pytest.approx((v + 0.5476 + 0.6213) / (1.4910 + 0.6213), abs=1e-7)


def test_linear_joints_and_shape():
    robot = load_robot("so101")
    np.testing.assert_allclose(policy_state(robot, np.full(6, 0.1))[:5], math.degrees(0.1), rtol=1e-6)
    with pytest.raises(ValueError, match="state: must have 6 entries"):
        policy_state(robot, np.zeros(7))
