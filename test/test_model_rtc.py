# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking against the specification's goldens."""

import numpy as np
import pytest
import torch

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.model.flow import sample, times
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.model.rtc import Guidance, guide, schedule_weights, strength


def test_schedules():
    linear = schedule_weights("linear", 4, 10, 14)
    np.testing.assert_allclose(linear, [1] * 4 + [0.8571, 0.7143, 0.5714, 0.4286, 0.2857, 0.1429] + [0] * 4, atol=5e-5)
    exp = schedule_weights("exp", 4, 10, 14)
    np.testing.assert_allclose(exp, [1] * 4 + [0.6766, 0.4335, 0.2563, 0.1335, 0.0550, 0.0128] + [0] * 4, atol=5e-5)
    middle = schedule_weights("exp", 5, 14, 25)[5:14]
    np.testing.assert_allclose(
        middle, [0.7645, 0.5706, 0.4130, 0.2871, 0.1888, 0.1145, 0.0611, 0.0258, 0.0061], atol=5e-5
    )
    assert schedule_weights("zeros", 4, 10, 14).tolist() == [1] * 4 + [0] * 10
    assert schedule_weights("ones", 4, 10, 14).tolist() == [1] * 10 + [0] * 4


@pytest.mark.parametrize("schedule", ["zeros", "ones", "linear", "exp"])
def test_a_delay_beyond_the_horizon_is_cut(schedule):
    assert schedule_weights(schedule, 99, 10, 14).tolist() == [1] * 10 + [0] * 4


def test_strength():
    """N = 10: 10 at t = 1 (clamped), 9.111, ..., 2 at t = 0.5, ..., 9.111 at t = 0.1."""
    values = {round(t, 1): strength(t) for t in times(10)}
    assert values[1.0] == 10 and values[0.5] == pytest.approx(2)
    assert values[0.9] == pytest.approx(9.111, abs=1e-3) and values[0.1] == pytest.approx(9.111, abs=1e-3)
    assert strength(0.0) == 0


def test_guided_velocity():
    """x = 1, v = 0.5 x, Y = 0.1, t = 0.5, delay 5, horizon 10 of 20."""
    x = torch.ones(1, 20, 3)
    weights = torch.tensor(schedule_weights("linear", 5, 10, 20), dtype=torch.float32)[None]
    v = guide(0.5 * x, x, 0.5, Guidance(torch.full_like(x, 0.1), weights))
    expected = [1.8] * 5 + [1.5833, 1.3667, 1.1500, 0.9333, 0.7167] + [0.5] * 10
    np.testing.assert_allclose(v[0, :, 0], expected, atol=5e-5)


@pytest.mark.parametrize("name", ["pi05", "pi0"])
def test_guided_chunks_agree_with_the_previous_one(name):
    """Where the weights are 1 the new chunk nearly is the old one; where they are 0 it is free."""
    model = random_model(tiny(name, chunk=12, prompt_len=8), seed=0)
    g = torch.Generator().manual_seed(0)
    state = torch.randn(1, 32, generator=g) if name == "pi0" else None
    with torch.inference_mode():
        images = torch.rand(1, 3, 3, 56, 56, generator=g) * 2 - 1
        x, valid = model.embed_prefix(
            images, torch.ones(1, 3, dtype=torch.bool), torch.full((1, 8), 7), torch.tensor([8])
        )
        prefix = model.prefix(x, valid)
        noise, target = torch.randn(2, 1, 12, 32, generator=g)
        weights = torch.tensor(schedule_weights("zeros", 5, 12, 12), dtype=torch.float32)[None]
        free = sample(model, prefix, noise, state)
        guided = sample(model, prefix, noise, state, guidance=Guidance(target, weights))
        none = sample(model, prefix, noise, state, guidance=Guidance(target, torch.zeros(1, 12)))
    assert torch.equal(none, free)
    before, after = ((a - target)[:, :5].norm() for a in (free, guided))
    assert after < 0.2 * before
