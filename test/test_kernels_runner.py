# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fused runner against the PyTorch model, both in fp32, on Triton's CPU interpreter: the kernels' arithmetic."""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from pi_vla_ros.engine.fused.runner import FusedRunner
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import GemmaGeometry, VisionGeometry, tiny
from pi_vla_ros.model.pi import PiModel

if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

ODD = {  # nothing divides anything: every tile has an edge
    "vision": VisionGeometry(width=48, depth=2, mlp=80, heads=4, patch=14, image=56),
    "language": GemmaGeometry(width=80, depth=2, mlp=112, heads=4, head_dim=16),
    "expert": GemmaGeometry(width=48, depth=2, mlp=80, heads=4, head_dim=16),
}


def random_model(geometry, seed: int = 0) -> PiModel:
    torch.manual_seed(seed)
    model = PiModel(geometry)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.ndim < 2 else p[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def request(geometry, batch: int, cameras: int, masks=None, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    size = geometry.vision.image
    return SimpleNamespace(
        pixel_values=torch.rand(batch, cameras, 3, size, size, generator=g) * 2 - 1,
        camera_mask=torch.ones(batch, cameras, dtype=torch.bool) if masks is None else torch.tensor(masks),
        input_ids=torch.randint(geometry.vocab, (batch, 24), generator=g),
        lang_lens=torch.randint(1, 25, (batch,), generator=g),
        state=torch.randn(batch, geometry.action_dim, generator=g) if geometry.model == "pi0" else None,
        noise=torch.randn(batch, geometry.chunk, geometry.action_dim, generator=g),
    )


def reference(model: PiModel, r, steps: int) -> torch.Tensor:
    x, valid = model.embed_prefix(r.pixel_values, r.camera_mask, r.input_ids, r.lang_lens)
    return sample(model, model.prefix(x, valid), r.noise, r.state, steps)


@pytest.mark.parametrize("name", ["pi05", "pi0"])
@pytest.mark.parametrize(
    ("batch", "cameras", "masks", "chunk"),
    [(1, 3, None, 10), (2, 2, [[True, True], [True, False]], 7), (1, 1, None, 63)],
)
def test_equals_the_model(name, batch, cameras, masks, chunk):
    geometry = tiny(name, chunk=chunk, prompt_len=24, **ODD)
    model = random_model(geometry)
    r = request(geometry, batch, cameras, masks)
    want = reference(model, r, steps=2)
    runner = FusedRunner(copy.deepcopy(model), cameras=cameras, max_batch=batch, steps=2)
    got = runner.run(r)
    assert torch.isfinite(got).all()
    error = (got - want).norm() / (want - r.noise).norm()
    assert error < 1e-4, f"relative error of what the model added to the noise: {error:.2e}"
