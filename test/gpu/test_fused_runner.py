# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fused runner at full size on a GPU: against the fp32 PyTorch model, and against itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.engine.fused.tuning_cache import tuning_for
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import PI0, PI05

GEOMETRY = {"pi0": PI0, "pi05": PI05}
CUDA = torch.device("cuda")


def request(g, lengths, cameras=3, masks=None, seed=1):
    rng, b, size = torch.Generator().manual_seed(seed), len(lengths), g.vision.image
    return SimpleNamespace(
        pixel_values=torch.rand(b, cameras, 3, size, size, generator=rng) * 2 - 1,
        camera_mask=torch.ones(b, cameras, dtype=torch.bool) if masks is None else torch.tensor(masks),
        input_ids=torch.randint(g.vocab, (b, g.prompt_len), generator=rng),
        lang_lens=torch.tensor(lengths),
        state=torch.randn(b, g.action_dim, generator=rng) if g.model == "pi0" else None,
        noise=torch.randn(b, g.chunk, g.action_dim, generator=rng),
    )


def reference(model, r, steps):
    x, valid = model.embed_prefix(*(t.to(CUDA) for t in (r.pixel_values, r.camera_mask, r.input_ids, r.lang_lens)))
    state = None if r.state is None else r.state.to(CUDA)
    return sample(model, model.prefix(x, valid), r.noise.to(CUDA), state, steps).cpu()


def close(got, want):
    error = (got - want).norm() / want.norm()
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0)
    print(f"relative error {error:.2e}, cosine {cosine:.6f}")
    assert torch.isfinite(got).all() and error <= 2e-2 and cosine >= 0.9995


@pytest.mark.parametrize("name", ["pi05", "pi0"])
@pytest.mark.parametrize(
    ("chunk", "steps", "cameras", "resident"),
    [(50, 1, 3, True), (50, 10, 3, True), (63, 3, 4, True), (10, 3, 3, False)],
)
@torch.inference_mode()
def test_full_size(name, chunk, steps, cameras, resident):
    torch.manual_seed(steps)
    g = replace(GEOMETRY[name], chunk=chunk)
    model = blank_model(g, CUDA, torch.bfloat16)
    exact = copy.deepcopy(model).float()
    cases = [
        request(g, [g.prompt_len], cameras=cameras),
        request(g, [17], cameras=cameras, seed=2),
        request(g, [20], masks=[[True, False, *[True] * (cameras - 2)]], cameras=cameras, seed=3),
    ]
    wants = [reference(exact, r, steps) for r in cases]
    del exact
    tune = replace(tuning_for(CUDA, 1), resident=resident)
    runner = FusedRunner(model, cameras=cameras, max_batch=1, steps=steps, tune=tune)
    first = [runner.run(r) for r in cases]
    for got, want in zip(first, wants, strict=True):
        close(got, want)
    poison(runner)
    for r, got in zip(reversed(cases), reversed(first), strict=True):  # another order, poisoned buffers: the same bits
        assert torch.equal(runner.run(r), got)
    for _ in range(200):
        assert torch.equal(runner.run(cases[0]), first[0])


@pytest.mark.parametrize(("name", "robots"), [("pi05", 2), ("pi05", 4), ("pi0", 3)])
@torch.inference_mode()
def test_batch_equals_single(name, robots):
    """On Hopper the expert's products of several robots are other kernels than those of one (kernels/expert_linear.cu)."""
    g = GEOMETRY[name]
    all_of = request(g, [g.prompt_len, 30, 17, g.prompt_len - 1][:robots])
    runner = FusedRunner(blank_model(g, CUDA, torch.bfloat16), cameras=3, max_batch=robots, steps=3)
    got = runner.run(all_of)
    for i in range(robots):
        one = SimpleNamespace(**{k: None if v is None else v[i : i + 1] for k, v in vars(all_of).items()})
        close(got[i : i + 1], runner.run(one))
    e = runner.expert
    for buffer in e._q, e._seen, e._mlp, *(s.buffer for s in e._sums):
        buffer.fill_(float("nan"))
    torch.cuda.synchronize()
    for _ in range(20):
        assert torch.equal(runner.run(all_of), got)


def poison(runner) -> None:
    """NaN wherever a step must write before it reads."""
    p, e, v = runner.prefix, runner.expert, runner.vision
    for buffer in (
        p.x,
        p._q,
        p._seen,
        p._mlp,
        p._raw,
        p.keys,
        p.values,
        v._x,
        v._h,
        v._qkv,
        v._mlp,
        e._q,
        e._seen,
        e._mlp,
    ):
        buffer.fill_(float("nan"))
    torch.cuda.synchronize()  # the runner has a stream of its own
