# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking against the specification's goldens."""

import numpy as np
import pytest
import torch

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.model.flow import sample, times
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.model.rtc import Committed, Guidance, guide
from pi_vla_ros.model.rtc_schedule import schedule_weights, strength

MOST = torch.tensor([10.0])


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
    values = {round(t, 1): min(strength(t), 10.0) for t in times(10)}
    assert values[1.0] == 10 and values[0.5] == pytest.approx(2)
    assert values[0.9] == pytest.approx(9.111, abs=1e-3) and values[0.1] == pytest.approx(9.111, abs=1e-3)
    assert strength(0.0) == 0


@pytest.mark.parametrize(
    ("t", "most", "expected"), [(1.0, 10.0, 10.0), (1.0, 3.0, 3.0), (0.5, 10.0, 2.0), (0.5, 0.0, 0.0)]
)
def test_guidance_is_bounded(t, most, expected):
    """x = 0, v = 0, target 1, weight 1: what is left of the velocity is the factor."""
    zero = torch.zeros(1, 1, 1)
    v = guide(zero, zero, t, Guidance(torch.ones(1, 1, 1), torch.ones(1, 1), torch.tensor([most])))
    assert v.item() == pytest.approx(-expected, abs=1e-6)


def test_guided_velocity():
    """x = 1, v = 0.5 x, Y = 0.1, t = 0.5, delay 5, horizon 10 of 20."""
    x = torch.ones(1, 20, 3)
    weights = torch.tensor(schedule_weights("linear", 5, 10, 20), dtype=torch.float32)[None]
    v = guide(0.5 * x, x, 0.5, Guidance(torch.full_like(x, 0.1), weights, MOST))
    expected = [1.8] * 5 + [1.5833, 1.3667, 1.1500, 0.9333, 0.7167] + [0.5] * 10
    np.testing.assert_allclose(v[0, :, 0], expected, atol=5e-5)


def prefix_of(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 3, 3, 56, 56, generator=g) * 2 - 1
    x, valid = model.embed_prefix(images, torch.ones(1, 3, dtype=torch.bool), torch.full((1, 8), 7), torch.tensor([8]))
    return model.prefix(x, valid)


@pytest.mark.parametrize("name", ["pi05", "pi0"])
def test_guided_chunks_agree_with_the_previous_one(name):
    """Where the weights are 1 the new chunk nearly is the old one; where they are 0 it is free."""
    model = random_model(tiny(name, chunk=12, prompt_len=8), seed=0)
    g = torch.Generator().manual_seed(0)
    state = torch.randn(1, 32, generator=g) if name == "pi0" else None
    with torch.inference_mode():
        prefix = prefix_of(model)
        noise, target = torch.randn(2, 1, 12, 32, generator=g)
        weights = torch.tensor(schedule_weights("zeros", 5, 12, 12), dtype=torch.float32)[None]
        free = sample(model, prefix, noise, state)
        guided = sample(model, prefix, noise, state, rtc=Guidance(target, weights, MOST))
        none = sample(model, prefix, noise, state, rtc=Guidance(target, torch.zeros(1, 12), MOST))
    assert torch.equal(none, free)
    before, after = ((a - target)[:, :5].norm() for a in (free, guided))
    assert after < 0.2 * before


def by_hand(model, prefix, noise, target, delay, steps):
    """Training-time chunking of one robot, action by action, in numpy: nothing of model/ but its weights and prefix."""
    w = {name: p.double().numpy() for name, p in model.named_parameters()}
    g = model.geometry.expert
    keys, values = ([t[0, 0].double().numpy() for t in side] for side in (prefix.keys, prefix.values))
    seen = len(keys[0])  # all valid

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def silu(x):
        return x / (1 + np.exp(-x))

    def condition(t):
        period = 4e-3 * (4.0 / 4e-3) ** np.linspace(0, 1, g.width // 2)
        clock = np.concatenate([np.sin(2 * np.pi * t / period), np.cos(2 * np.pi * t / period)])
        return silu(linear("time_mlp_out", silu(linear("time_mlp_in", clock))))

    def norm(name, x, cond):
        scale, shift, gate = np.split(linear(f"{name}.dense", cond), 3)
        return x / np.sqrt((x**2).mean() + 1e-6) * (1 + scale) + shift, gate

    def rotate(x, position):
        angle = position / 10_000.0 ** (np.arange(0, g.head_dim, 2) / g.head_dim)
        a, b = np.split(x, 2)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])

    def velocity(x, clocks):
        conds = [condition(t) for t in clocks]
        rows = [linear("action_in_proj", row) for row in x]
        for i in range(g.depth):
            layer = f"expert.layers.{i}"
            normed = [norm(f"{layer}.input_layernorm", r, c) for r, c in zip(rows, conds, strict=True)]
            own_k = [rotate(linear(f"{layer}.self_attn.k_proj", h), seen + j) for j, (h, _) in enumerate(normed)]
            own_v = [linear(f"{layer}.self_attn.v_proj", h) for h, _ in normed]
            k, v = np.vstack([keys[i], own_k]), np.vstack([values[i], own_v])
            for j, (h, gate) in enumerate(normed):
                heads = linear(f"{layer}.self_attn.q_proj", h).reshape(g.heads, g.head_dim)
                scores = np.exp(np.stack([rotate(q, seen + j) for q in heads]) @ k.T / np.sqrt(g.head_dim))
                answer = scores / scores.sum(1, keepdims=True) @ v
                rows[j] = rows[j] + gate * linear(f"{layer}.self_attn.o_proj", answer.reshape(-1))
                h, gate = norm(f"{layer}.post_attention_layernorm", rows[j], conds[j])
                a, b = linear(f"{layer}.mlp.gate_proj", h), linear(f"{layer}.mlp.up_proj", h)
                gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
                rows[j] = rows[j] + gate * linear(f"{layer}.mlp.down_proj", gelu * b)
        return np.stack(
            [linear("action_out_proj", norm("expert.norm", r, c)[0]) for r, c in zip(rows, conds, strict=True)]
        )

    x = noise.double().numpy().copy()
    for n in range(steps):
        t = 1 - n / steps
        x[:delay] = target[:delay]
        x = x - velocity(x, [0.0 if j < delay else t for j in range(len(x))]) / steps
    x[:delay] = target[:delay]
    return x


@pytest.mark.parametrize("delay", [1, 3, 6])
def test_committed_actions_against_the_formula(delay):
    model = random_model(tiny("pi05", chunk=7, prompt_len=8), seed=0)
    with torch.inference_mode():
        prefix = prefix_of(model)
        noise, target = torch.randn(2, 1, 7, 32, generator=torch.Generator().manual_seed(delay))
        got = sample(model, prefix, noise, steps=3, rtc=Committed(target, torch.tensor([delay])))
        free = sample(model, prefix, noise, steps=3)
    expected = by_hand(model, prefix, noise[0], target[0].double().numpy(), delay, 3)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=2e-5)
    assert torch.equal(got[:, :delay], target[:, :delay])
    assert (got - free)[:, delay:].abs().max() > 1e-3  # the others see them


def test_committed_actions_of_one_robot_leave_the_others_alone():
    model = random_model(tiny("pi05", chunk=7, prompt_len=8), seed=0)
    rtc = Committed(torch.ones(2, 7, 32), torch.tensor([0, 2]))
    assert torch.equal(rtc.times(0.25), torch.tensor([[0.25] * 7, [0.0] * 2 + [0.25] * 5]))
    with torch.inference_mode():
        one = prefix_of(model)
        both = type(one)(
            *([t.expand(2, -1, -1, -1) for t in x] for x in (one.keys, one.values)), one.valid.expand(2, -1)
        )
        noise = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
        got, free = sample(model, both, noise, steps=3, rtc=rtc), sample(model, both, noise, steps=3)
    torch.testing.assert_close(got[0], free[0], atol=1e-5, rtol=0)
    assert torch.equal(got[1, :2], torch.ones(2, 32))
