# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision tower's CUDA kernels against PyTorch: on a Hopper GPU, else on the CPU (test/cuda_on_cpu)."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("triton")

import triton
from cuda_on_cpu import COMPILER, with_cpu

from pi_vla_ros.engine.fused import vision_in_cuda
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.stages import VisionStage
from pi_vla_ros.engine.fused.tuning import Tuning
from pi_vla_ros.kernels import image_attention as attending
from pi_vla_ros.kernels import vision_linear as products
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.kernels.vision_linear import (
    Activations,
    Cut,
    Product,
    add_linear,
    cut_for,
    linear,
    moments_for,
    prefix_linear,
    row_moments,
    tiled,
)
from pi_vla_ros.model.geometry import GemmaGeometry, VisionGeometry, tiny

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
DEVICE = torch.device("cuda" if HOPPER else "cpu")
needs_compiler = pytest.mark.skipif(not HOPPER and COMPILER is None, reason="needs g++")


@pytest.fixture(autouse=True)
def on_device():
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device("cpu")


@pytest.fixture(params=[pytest.param(0, marks=pytest.mark.slow), 3])
def cpu(monkeypatch, request):
    """Without a GPU, launches run on CPU tensors, in one of the orders that a GPU may take."""

    if not HOPPER:
        with_cpu(monkeypatch, request.param)


def numbers(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cpu").to(DEVICE)


def poisoned(*shape, dtype=torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def moments_of(x: torch.Tensor, columns: int = 64) -> torch.Tensor:
    parts = x.float().unflatten(1, (-1, columns))
    return torch.stack([parts.sum(-1), parts.square().sum(-1)], -1).transpose(0, 1).contiguous()


def norm(width: int) -> nn.LayerNorm:
    n = nn.LayerNorm(width, eps=1e-6)
    n.weight.data, n.bias.data = 1 + 0.3 * numbers(width, seed=8), 0.3 * numbers(width, seed=9)
    return n.to(torch.bfloat16).requires_grad_(False)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.float() - want.float()).norm() / want.float().norm()).item()


@pytest.mark.parametrize(("n", "width"), [(3456, 160), (4304, 200), (1152, 128)])
def test_tiles_hold_every_row_once_and_8_neighbours_in_a_thread(n, width):
    w, constants = tiled(torch.arange(n)[:, None].float() + 1, torch.arange(n), width, None)
    tiles = w.view(-1, width)
    assert sorted(w[w > 0].tolist()) == list(range(1, n + 1))
    for t, tile in enumerate(tiles):
        for group in range(width // 32):
            for quad in range(4):
                held = [tile[group * 32 + 8 * i + 2 * quad + e].item() for i in range(4) for e in range(2)]
                first = t * width + group * 32 + quad * 8 + 1
                assert held == [c if c <= n else 0 for c in range(first, first + 8)]
    assert torch.equal(constants[:, 1].flatten()[:n], torch.arange(n).float())
    assert torch.equal(constants[:, 0].flatten()[:n], torch.arange(n) + 1.0)


@needs_compiler
@pytest.mark.parametrize(
    ("m", "n", "width", "gelu", "clusters"),
    [
        pytest.param(256, 328, 160, False, 66, marks=pytest.mark.slow),
        (512, 328, 160, False, 2),
        pytest.param(512, 504, 200, True, 66, marks=pytest.mark.slow),
        (768, 304, 200, True, 2),
    ],
)
def test_linear(cpu, monkeypatch, m, n, width, gelu, clusters):
    monkeypatch.setitem(products.CLUSTERS, 1, clusters)
    k = 448
    x = poisoned(m + 3, k)
    x[:m] = 2 * numbers(m, k)
    w, b, ln = numbers(n, k, seed=1).to(torch.bfloat16) / k**0.5, numbers(n, seed=2).to(torch.bfloat16), norm(k)
    moments = poisoned(k // 64, m + 5, 2, dtype=torch.float32)
    moments[:, :m] = moments_of(x[:m])
    out = poisoned(m + 1, n)
    linear(Activations.of(x), m, Product.of(w, b, Cut(width), ln), out, moments, gelu=gelu, pdl=False)
    y = F.layer_norm(x[:m].float(), (k,), ln.weight.float(), ln.bias.float(), 1e-6) @ w.float().T + b.float()
    assert error(out[:m], F.gelu(y, approximate="tanh") if gelu else y) < 3e-3
    assert out[m:].isnan().all()


@needs_compiler
@pytest.mark.parametrize(
    ("m", "k", "cut", "clusters"),
    [(256, 1152, Cut(128, 2), 30), (768, 600, Cut(128, 2), 2),
     pytest.param(512, 328, Cut(96), 66, marks=pytest.mark.slow),  # each compiles another kernel
     pytest.param(512, 208, Cut(128, 2), 1, marks=pytest.mark.slow),
     pytest.param(512, 328, Cut(128), 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_add_linear(cpu, monkeypatch, m, k, cut, clusters):
    monkeypatch.setitem(products.CLUSTERS, cut.split, clusters)
    n = 2 * cut.width
    a = poisoned(m + 3, k)
    a[:m] = numbers(m, k)
    w, b = numbers(n, k, seed=1).to(torch.bfloat16) / k**0.5, numbers(n, seed=2).to(torch.bfloat16)
    x = poisoned(m + 1, n)
    x[:m] = numbers(m, n, seed=3)
    want = x[:m].float() + a[:m].float() @ w.float().T + b.float()
    moments = moments_for(cut, n, m + 5, x.device).fill_(float("nan"))
    add_linear(Activations.of(a), m, Product.of(w, b, cut), x, moments, pdl=False)
    assert error(x[:m], want) < 3e-3
    assert torch.allclose(moments[:, :m], moments_of(x[:m], cut.width // cut.split), rtol=1e-5, atol=1e-4)
    assert x[m:].isnan().all() and moments[:, m:].isnan().all()


@needs_compiler
def test_prefix_linear(cpu):
    """Two robots of 256 tokens each, whose rows begin 300 apart."""
    m, k, n = 512, 448, 256
    x, w = numbers(m, k).to(torch.bfloat16), numbers(n, k, seed=1).to(torch.bfloat16)
    b, ln = numbers(n, seed=2), norm(k)
    out, sums = poisoned(600, n), poisoned(2, 600, dtype=torch.float32)
    prefix_linear(Activations.of(x), m, Product.of(w, b, Cut(128), ln), out, moments_of(x), sums, 256, 300, pdl=False)
    want = F.layer_norm(x.float(), (k,), ln.weight.float(), ln.bias.float(), 1e-6) @ w.float().T + b
    rows = torch.cat([torch.arange(256), 300 + torch.arange(256)])
    assert error(out[rows], want) < 3e-3
    assert torch.allclose(sums[:, rows].sum(0), out[rows].float().square().sum(1), rtol=1e-5)
    assert out[256:300].isnan().all() and sums[:, 256:300].isnan().all()


@pytest.mark.parametrize(
    ("n", "rows", "sums", "want"),
    [(3456, 768, False, Cut(160)), (4304, 768, False, Cut(200)), (1152, 768, True, Cut(128, 2)),
     (1152, 1024, True, Cut(96)), (1152, 1536, True, Cut(128))],
)  # fmt: skip
def test_a_product_fills_the_chip(n, rows, sums, want):
    assert cut_for(n, rows, sums=sums) == want


@needs_compiler
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_mean_costs_no_accuracy(cpu, offset):
    """Rows far from zero, as residual streams are: as exact as PyTorch's LayerNorm and product in bf16."""
    m, k, n = 256, 448, 160
    x = (numbers(m, k) + offset).to(torch.bfloat16)
    w, b, ln = numbers(n, k, seed=1).to(torch.bfloat16) / k**0.5, numbers(n, seed=2).to(torch.bfloat16), norm(k)
    out = poisoned(m, n)
    linear(Activations.of(x), m, Product.of(w, b, Cut(160), ln), out, moments_of(x), pdl=False)
    want = F.layer_norm(x.double(), (k,), ln.weight.double(), ln.bias.double(), 1e-6) @ w.double().T + b.double()
    theirs = F.linear(ln(x), w, b)
    assert error(out, want) <= 1.1 * error(theirs, want), (error(out, want), error(theirs, want))


@needs_compiler
@pytest.mark.parametrize(("images", "heads"), [(1, 2), (2, 3)])
def test_attention(cpu, images, heads):
    rows = images * 256
    qkv = poisoned(rows + 7, 3 * heads * 72)
    qkv[:rows] = 1.5 * numbers(rows, 3 * heads * 72)
    out = poisoned(rows + 1, heads * 72)
    attending.image_attention(attending.map_of(qkv), images, heads, out, pdl=False)
    q, k, v = (
        t.float().unflatten(1, (heads, 72)).unflatten(0, (images, 256)).transpose(1, 2) for t in qkv[:rows].chunk(3, 1)
    )
    want = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1)
    held = attending.held(heads)
    assert held.sort().values.tolist() == list(range(heads * 72))
    assert error(out[:rows], want[:, held]) < 4e-3
    assert out[rows:].isnan().all()


def test_row_moments():
    if not HOPPER and not triton.knobs.runtime.interpret:
        pytest.skip("needs Triton's interpreter")
    x, moments = numbers(3, 1152).to(torch.bfloat16), poisoned(12, 5, 2, dtype=torch.float32)
    row_moments(x, moments, pdl=False)
    assert torch.allclose(moments[:, :3], moments_of(x, 96), rtol=1e-5, atol=1e-4)
    assert moments[:, 3:].isnan().all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("images", [1, 2])
@torch.no_grad()
def test_the_tower(cpu, monkeypatch, images):
    """Two layers of full width: as near to the fp32 model as PyTorch's own bf16 is, in the rows where it belongs."""
    if not HOPPER and not triton.knobs.runtime.interpret:
        pytest.skip("needs Triton's interpreter")
    monkeypatch.setattr(vision_in_cuda, "available", lambda device: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(images)
    vision = VisionGeometry(width=1152, depth=2, mlp=440, heads=16, patch=14, image=224)
    language = GemmaGeometry(width=256, depth=1, mlp=32, heads=2, head_dim=16)
    expert = GemmaGeometry(width=32, depth=1, mlp=32, heads=2, head_dim=16)
    geometry = tiny("pi0", chunk=2, prompt_len=8, vision=vision, language=language, expert=expert)
    model = blank_model(geometry, DEVICE, torch.bfloat16)
    pixels = torch.rand(images, 3, 224, 224) * 2 - 1
    theirs = model.projector(model.vision(pixels).to(torch.bfloat16)).flatten(0, 1)
    exact = copy.deepcopy(model).float()
    want = exact.projector(exact.vision(pixels)).flatten(0, 1)
    stage = vision_in_cuda.vision_stage(model, 2, torch.bfloat16, Tuning(), pdl=False)
    assert isinstance(stage, vision_in_cuda.CudaVision)
    for buffer in (stage._x, stage._h, stage._qkv, stage._mlp, stage._moments):
        buffer.fill_(float("nan"))
    out, sums = poisoned(600, 256), Stats(poisoned(2, 600, dtype=torch.float32), 256)
    stage.launch(pixels, out, 256, sums, 300)
    rows = torch.cat([i * 300 + torch.arange(256) for i in range(images)])
    assert error(out[rows], want) <= 1.1 * error(theirs, want), (error(out[rows], want), error(theirs, want))
    assert torch.allclose(sums.buffer[:, rows].sum(0), out[rows].float().square().sum(1), rtol=1e-5)
    assert out[256:300].isnan().all()


def test_falls_back():
    """No Hopper GPU, other sizes, or asked not to: the library's products."""
    language = GemmaGeometry(width=64, depth=1, mlp=32, heads=2, head_dim=16)
    vision = VisionGeometry(width=32, depth=1, mlp=32, heads=2, patch=14, image=28)
    geometry = tiny("pi0", chunk=2, prompt_len=8, vision=vision, language=language, expert=language)
    model = blank_model(geometry, torch.device("cpu"), torch.bfloat16)
    assert not vision_in_cuda.fits(model, Tuning())
    assert isinstance(vision_in_cuda.vision_stage(model, 1, torch.bfloat16, Tuning(), pdl=False), VisionStage)
