# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every intermediate result of both models, in fp32 and bf16, against LeRobot 0.4.4."""

import pytest
import torch
from golden import NAMES, Golden

from pi_vla_ros.model.flow import sample, times
from pi_vla_ros.model.geometry import PI0, PI05
from pi_vla_ros.model.pi import PiModel

FP32, BF16 = 5e-5, 2e-2


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def ran(golden):
    """Model, prefix embeddings, validity and prefix of the golden inputs."""
    model = golden.model()
    with torch.no_grad():
        x, valid = model.embed_prefix(golden.images, golden.cameras, golden.given["tokens"], golden.lengths)
        return model, x, valid, model.prefix(x, valid)


def close(golden, expected: torch.Tensor, ours: torch.Tensor, name: str) -> None:
    ours, expected = ours.float(), expected.float()
    assert ours.shape == expected.shape, name
    if golden.dtype == torch.float32:
        assert (ours - expected).abs().max() <= FP32, name
    else:
        assert (ours - expected).norm() / expected.norm() <= BF16, name


def test_every_reference_is_checked(golden):
    known = {"image_embs0", "image_embs1", "image_embs2", "prefix_embs", "prefix_pad", "k0", "v0", "k2", "v2"}
    known |= {"suffix_embs_step0", "times", "x_t", "v_t", "actions"}
    known |= {"adarms_cond_step0"} if golden.geometry.model == "pi05" else set()
    assert set(golden.expected) == known


def test_prefix(golden, ran):
    model, x, valid, prefix = ran
    with torch.no_grad():
        for i in range(3):
            name = f"image_embs{i}"
            close(golden, golden.expected[name], model.embed_images(golden.given[f"image{i}"]), name)
    close(golden, golden.expected["prefix_embs"], x, "prefix_embs")
    assert torch.equal(valid, golden.expected["prefix_pad"])
    seen = valid[:, None, :, None].expand_as(prefix.keys[0])  # what is masked is never read
    for layer in (0, 2):
        for name, ours in ((f"k{layer}", prefix.keys[layer]), (f"v{layer}", prefix.values[layer])):
            close(golden, golden.expected[name][seen], ours[seen], name)


@torch.no_grad()
def test_flow(golden, ran):
    """Our own walk from noise to actions passes where the reference's did."""
    model, _, _, prefix = ran
    state = None if golden.geometry.model == "pi05" else golden.given["state"]
    x, expected = golden.given["noise"], golden.expected
    for i, t in enumerate(times(golden.steps)):
        time = torch.full((2,), t)
        assert torch.allclose(time, expected["times"][i], atol=1e-6)
        close(golden, expected["x_t"][i], x, "x_t")
        if i == 0:
            tokens, cond = model.embed_suffix(x, time, state)
            close(golden, expected["suffix_embs_step0"], tokens, "suffix_embs_step0")
            if cond is not None:
                close(golden, expected["adarms_cond_step0"], cond, "adarms_cond_step0")
        v = model.velocity(prefix, x, time, state)
        close(golden, expected["v_t"][i], v, "v_t")
        x = x - v / golden.steps
    close(golden, expected["actions"], x, "actions")
    assert torch.equal(sample(model, prefix, golden.given["noise"], state, golden.steps), x)


@pytest.mark.parametrize("geometry, count", [(PI05, 3_353_433_872), (PI0, 3_238_048_528)], ids=["pi05", "pi0"])
def test_published_sizes(geometry, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in PiModel(geometry).parameters()) == count
