# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking and drawn noise on a GPU: at full size against the fp32 PyTorch model, and engines against the CPU."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from pi_vla_ros.engine import DeviceConfig, Engine, EngineArgs, EngineConfig, PI05Args, PI05Request, RuntimeConfig
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.engine.noise import Draw, NoiseSource
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import PI0, PI05, tiny
from pi_vla_ros.model.rtc import Committed, Guidance, each

pytestmark = pytest.mark.gpu
GEOMETRY = {"pi0": PI0, "pi05": PI05}
CUDA = torch.device("cuda")


def request(g, batch, seed=1):
    rng, size = torch.Generator().manual_seed(seed), g.vision.image
    return SimpleNamespace(
        pixel_values=torch.rand(batch, 3, 3, size, size, generator=rng) * 2 - 1,
        camera_mask=torch.ones(batch, 3, dtype=torch.bool),
        input_ids=torch.randint(g.vocab, (batch, g.prompt_len), generator=rng),
        lang_lens=torch.randint(1, g.prompt_len + 1, (batch,), generator=rng),
        state=torch.randn(batch, g.action_dim, generator=rng) if g.model == "pi0" else None,
        noise=torch.randn(batch, g.chunk, g.action_dim, generator=rng),
        rtc=None,
    )


def reference(model, r, steps):
    x, valid = model.embed_prefix(*(t.to(CUDA) for t in (r.pixel_values, r.camera_mask, r.input_ids, r.lang_lens)))
    state = None if r.state is None else r.state.to(CUDA)
    rtc = each(r.rtc, lambda t: t.to(CUDA))
    return sample(model, model.prefix(x, valid), r.noise.to(CUDA), state, steps, rtc).cpu()


def close(got, want):
    error = (got - want).norm() / want.norm()
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0)
    print(f"relative error {error:.2e}, cosine {cosine:.6f}")
    assert torch.isfinite(got).all() and error <= 2e-2 and cosine >= 0.9995


@pytest.mark.parametrize(("name", "mode"), [("pi05", "guided"), ("pi0", "guided"), ("pi05", "trained")])
@pytest.mark.parametrize("batch", [1, 2])
@torch.inference_mode()
def test_full_size(name, mode, batch):
    """With and without anything asked, in turn, on one graph."""
    torch.manual_seed(batch)
    g, rng = GEOMETRY[name], torch.Generator().manual_seed(7)
    model = blank_model(g, CUDA, torch.bfloat16)
    exact = copy.deepcopy(model).float()
    target = torch.randn(batch, g.chunk, g.action_dim, generator=rng)
    guidance = Guidance(target, torch.rand(batch, g.chunk, generator=rng), torch.tensor([10.0, 2.0][:batch]))
    rtc = guidance if mode == "guided" else Committed(target, torch.tensor([6, 0][:batch]))
    free, asked = request(g, batch), request(g, batch)
    asked.rtc = rtc
    wants = [reference(exact, r, 10) for r in (free, asked)]
    assert (wants[0] - wants[1]).norm() > 0.1 * wants[0].norm()
    del exact
    runner = FusedRunner(model, cameras=3, max_batch=batch, steps=10, rtc=mode)
    first = [runner.run(r) for r in (free, asked)]
    for got, want in zip(first, wants, strict=True):
        close(got, want)
    graphs = len(runner._graphs)
    for r, got in zip((asked, free), reversed(first), strict=True):
        assert torch.equal(runner.run(r), got)
    assert len(runner._graphs) == graphs  # nothing was captured anew
    if mode == "trained":
        assert torch.equal(first[1][0, :6], target[0, :6])


TINY = tiny("pi05", chunk=7, prompt_len=40)


def engine(rtc, fused, dtype=torch.bfloat16):
    args = PI05Args(random_geometry=TINY, max_batch_size=2, seed=3, rtc_training_max_delay=4)
    config = EngineConfig(DeviceConfig("cuda", params_dtype=dtype), RuntimeConfig(fused=fused, rtc=rtc))
    return Engine(EngineArgs("pi05", args, config))


def tiny_request(**changes):
    rng = torch.Generator().manual_seed(0)
    fields = {
        "pixel_values": torch.rand(2, 3, 3, 56, 56, generator=rng) * 2 - 1,
        "input_ids": torch.randint(5, 500, (2, 40), generator=rng),
        "lang_lens": torch.tensor([12, 40]),
        "noise": torch.randn(2, 7, 32, generator=rng),
    }
    return PI05Request(**(fields | changes))


@pytest.mark.parametrize("rtc", ["guided", "trained"])
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_asked_is_an_ordinary_step_to_the_bit(rtc, fused):
    with engine("off", fused) as plain, engine(rtc, fused) as e:
        assert e.fused == fused
        r = tiny_request()
        target = torch.randn(2, 7, 32)
        none = (
            {"rtc_weights": torch.zeros(2, 7)} if rtc == "guided" else {"rtc_delay": torch.zeros(2, dtype=torch.int64)}
        )
        some = {"rtc_weights": torch.ones(2, 7)} if rtc == "guided" else {"rtc_delay": torch.tensor([2, 4])}
        before = plain.step(r)
        assert torch.equal(e.step(r), before)
        assert (e.step(dataclasses.replace(r, rtc_target=target, **some)) - before).abs().max() > 1e-2
        assert torch.equal(e.step(dataclasses.replace(r, rtc_target=target, **none)), before)


def test_captured_committed_actions_equal_the_model():
    """The PyTorch model's graphs, fp32, against the model run by hand."""
    with engine("trained", False, torch.float32) as e:
        r = tiny_request(rtc_target=torch.randn(2, 5, 32), rtc_delay=torch.tensor([4, 0]))
        m = e._runner._model
        with torch.inference_mode():
            given = (r.pixel_values, torch.ones(2, 3, dtype=torch.bool), r.input_ids, r.lang_lens)
            prefix = m.prefix(*m.embed_prefix(*(t.to(CUDA) for t in given)))
            rtc = Committed(torch.nn.functional.pad(r.rtc_target, (0, 0, 0, 2)).to(CUDA), r.rtc_delay.to(CUDA))
            want = sample(m, prefix, r.noise.to(CUDA), steps=10, rtc=rtc).cpu()
        torch.testing.assert_close(e.step(r), want, atol=5e-5, rtol=0)


def test_drawn_noise():
    """Reproducible for a seed wherever the robot stands; normal; what the engine's own kernel draws when called alone."""
    with engine("off", True) as e, engine("off", True) as other:
        r = tiny_request(noise=None, seed=torch.tensor([7, 8]))
        assert torch.equal(e.step(r), other.step(r))
        assert (
            e.step(dataclasses.replace(r, seed=None)) - e.step(dataclasses.replace(r, seed=None))
        ).abs().max() > 1e-3
        keys = NoiseSource(0, (7, 32)).on_gpu(2, Draw(r.seed, 0.5))
        drawn = torch.full((2, 7, 32), float("nan"), device=CUDA)
        draw(drawn, keys.keys.to(CUDA), keys.scale.to(CUDA), pdl=False)
        given = dataclasses.replace(r, noise=drawn.cpu())
        assert torch.equal(e.step(dataclasses.replace(r, noise_scale=0.5)), e.step(given))
    many = NoiseSource(1, (500, 32)).on_gpu(64, Draw(3, 1.0))
    x = torch.empty(64, 500, 32, device=CUDA)
    draw(x, many.keys.to(CUDA), many.scale.to(CUDA), pdl=False)
    assert abs(x.mean()) < 5e-3 and abs(x.std() - 1) < 5e-3 and abs((x**4).mean() - 3) < 0.05


@torch.inference_mode()
def test_vision_in_fp32():
    """π0 as the reference runs it: the tower in fp32, the layers in bf16."""
    model = blank_model(PI0, CUDA, torch.bfloat16)
    for part in (model.vision, model.projector):
        part.float()
    exact = copy.deepcopy(model).float()
    r = request(PI0, 2)
    want = reference(exact, r, 10)
    del exact
    close(FusedRunner(model, cameras=3, max_batch=2, steps=10).run(r), want)
