# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fused runner against the PyTorch model, both in fp32, on Triton's CPU interpreter: the kernels' arithmetic."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton

from pi_vla_ros.engine.fused.exact_vision import ExactVision
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.engine.noise import Draw, NoiseSource
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import GemmaGeometry, VisionGeometry, tiny
from pi_vla_ros.model.pi import PiModel
from pi_vla_ros.model.rtc import Committed, Guidance
from pi_vla_ros.processing.images import square_images

if not triton.knobs.runtime.interpret:
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

ODD = {  # nothing divides anything: every tile has an edge
    "vision": VisionGeometry(width=48, depth=2, mlp=80, heads=4, patch=14, image=56),
    "language": GemmaGeometry(width=80, depth=2, mlp=112, heads=4, head_dim=16),
    "expert": GemmaGeometry(width=48, depth=2, mlp=80, heads=4, head_dim=16),
}
LITTLE = {  # interpreted launches are slow, and these need several runs
    "vision": VisionGeometry(width=32, depth=1, mlp=32, heads=2, patch=14, image=28),
    "language": GemmaGeometry(width=32, depth=2, mlp=32, heads=2, head_dim=16),
    "expert": GemmaGeometry(width=32, depth=2, mlp=48, heads=2, head_dim=16),
}


def random_model(geometry, seed: int = 0) -> PiModel:
    torch.manual_seed(seed)
    model = PiModel(geometry)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.ndim < 2 else p[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def request(geometry, batch: int, cameras: int, masks=None, seed: int = 1, rtc=None):
    g = torch.Generator().manual_seed(seed)
    size = geometry.vision.image
    return SimpleNamespace(
        pixel_values=torch.rand(batch, cameras, 3, size, size, generator=g) * 2 - 1,
        camera_mask=torch.ones(batch, cameras, dtype=torch.bool) if masks is None else torch.tensor(masks),
        input_ids=torch.randint(geometry.vocab, (batch, 24), generator=g),
        lang_lens=torch.randint(1, 25, (batch,), generator=g),
        state=torch.randn(batch, geometry.action_dim, generator=g) if geometry.model == "pi0" else None,
        noise=torch.randn(batch, geometry.chunk, geometry.action_dim, generator=g),
        rtc=rtc,
    )


def reference(model: PiModel, r, steps: int) -> torch.Tensor:
    x, valid = model.embed_prefix(r.pixel_values, r.camera_mask, r.input_ids, r.lang_lens)
    return sample(model, model.prefix(x, valid), r.noise, r.state, steps, r.rtc)


@pytest.mark.parametrize("name", ["pi05", pytest.param("pi0", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("batch", "cameras", "masks", "chunk"),
    [
        (1, 3, None, 10),
        pytest.param(2, 2, [[True, True], [True, False]], 7, marks=pytest.mark.slow),
        pytest.param(1, 1, None, 63, marks=pytest.mark.slow),
    ],
)
def test_equals_the_model(name, batch, cameras, masks, chunk):
    geometry = tiny(name, chunk=chunk, prompt_len=24, **ODD)
    model = random_model(geometry)
    r = request(geometry, batch, cameras, masks)
    want = reference(model, r, steps=2)
    runner = FusedRunner(copy.deepcopy(model), cameras=cameras, max_batch=batch, steps=2)
    got = runner.run(r)
    same(got, want, r.noise)


def same(got, want, noise):
    assert torch.isfinite(got).all()
    error = (got - want).norm() / (want - noise).norm()
    assert error < 1e-4, f"relative error of what the model added to the noise: {error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pi05", "pi0"])
def test_guided(name):
    """Robots with their own target, weights and bound; those with none are as in a runner that knows nothing of it."""
    geometry = tiny(name, chunk=5, prompt_len=24, **LITTLE)
    model, g = random_model(geometry), torch.Generator().manual_seed(5)
    target, weights = torch.randn(3, 5, 32, generator=g), torch.rand(3, 5, generator=g)
    weights[1] = 0.0
    r = request(geometry, 3, 1, rtc=Guidance(target, weights, torch.tensor([10.0, 10.0, 0.5])))
    sizes = {"cameras": 1, "max_batch": 3, "steps": 2}
    plain = FusedRunner(copy.deepcopy(model), **sizes)
    guided = FusedRunner(copy.deepcopy(model), **sizes, rtc="guided")
    got = guided.run(r)
    same(got, reference(model, r, steps=2), r.noise)
    r.rtc = None
    free = guided.run(r)
    assert torch.equal(free, plain.run(r)) and torch.equal(free[1], got[1])
    assert (free - got)[0].abs().max() > 0.1


@pytest.mark.slow
def test_committed():
    """Delays that differ between robots, cameras that make two groups of them; none: the same bits as ever."""
    geometry = tiny("pi05", chunk=5, prompt_len=24, **LITTLE)
    model, g = random_model(geometry), torch.Generator().manual_seed(5)
    rtc = Committed(torch.randn(3, 5, 32, generator=g), torch.tensor([3, 0, 4]))
    r = request(geometry, 3, 2, [[True, True], [True, True], [True, False]], rtc=rtc)
    sizes = {"cameras": 2, "max_batch": 3, "steps": 2}
    plain = FusedRunner(copy.deepcopy(model), **sizes)
    trained = FusedRunner(copy.deepcopy(model), **sizes, rtc="trained")
    got = trained.run(r)
    same(got, reference(model, r, steps=2), r.noise)
    assert torch.equal(got[0, :3], rtc.target[0, :3]) and torch.equal(got[2, :4], rtc.target[2, :4])
    r.rtc = None
    free = trained.run(r)
    assert torch.equal(free, plain.run(r)) and torch.equal(free[1], got[1])


@pytest.mark.slow
def test_noise_is_drawn_in_the_graph():
    """Each robot's, whatever group its cameras put it in; a robot that brings its own is left alone."""
    geometry = tiny("pi05", chunk=5, prompt_len=24, **LITTLE)
    model = random_model(geometry)
    runner = FusedRunner(model, cameras=2, max_batch=2, steps=1)
    r = request(geometry, 2, 2, [[True, False], [True, True]])
    r.noise = NoiseSource(3, (5, 32)).on_gpu(2, Draw(torch.tensor([7, 8]), 0.5))
    both = runner.run(r)
    drawn = torch.empty(2, 5, 32)
    draw(drawn, r.noise.keys, r.noise.scale, pdl=False)
    r.noise = drawn
    assert torch.equal(runner.run(r), both)


@pytest.mark.slow
def test_frames_are_resized_in_the_graph():
    """Of any size, robots of one step with different ones; the same as images that were resized before."""
    geometry = tiny("pi05", chunk=5, prompt_len=24, **LITTLE)
    model, rng = random_model(geometry), np.random.default_rng(0)
    runner = FusedRunner(copy.deepcopy(model), cameras=2, max_batch=2, steps=1, largest_frame=(48, 64))
    plain = FusedRunner(copy.deepcopy(model), cameras=2, max_batch=2, steps=1)
    a, b, c = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (28, 28), (33, 41)))
    r = request(geometry, 2, 2, [[True, False], [True, True]])
    frames = [(a, None), (b, c)]
    r.pixel_values = square_images(frames, 28, "pil")
    want = plain.run(r)
    torch.testing.assert_close(runner.run(r), want, atol=1e-5, rtol=0)
    r.pixel_values = frames
    torch.testing.assert_close(runner.run(r), want, atol=1e-2, rtol=0)
    r.pixel_values = [(b, None), (b, b)]  # none of them to be resized
    got = runner.run(r)
    r.pixel_values = square_images(r.pixel_values, 28, "pil")
    torch.testing.assert_close(got, plain.run(r), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_vision_that_stays_pytorch():
    """A tower in a higher precision than the layers: here fp64, so that it shows."""
    geometry = tiny("pi0", chunk=5, prompt_len=24, **LITTLE)
    model = random_model(geometry)
    r = request(geometry, 2, 2, [[True, False], [True, True]])
    plain = FusedRunner(copy.deepcopy(model), cameras=2, max_batch=2, steps=1).run(r)
    model.vision.double()
    model.projector.double()
    runner = FusedRunner(model, cameras=2, max_batch=2, steps=1)
    assert isinstance(runner.vision, ExactVision)
    torch.testing.assert_close(runner.run(r), plain, atol=1e-4, rtol=0)
