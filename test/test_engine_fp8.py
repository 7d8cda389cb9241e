# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""fp8: what is quantised, how exactly; the product itself runs on a GPU only (test/gpu)."""

import pytest
import torch
from torch import nn

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.engine import DeviceConfig
from pi_vla_ros.engine.fp8 import FP8, LARGEST, Fp8Linear, quantise, reference, to_fp8
from pi_vla_ros.model.geometry import tiny


def test_quantise_is_within_half_a_step_and_scaled_by_row():
    rows = torch.randn(5, 64) * torch.tensor([1e-6, 1.0, 100.0, 1e6, 0.0])[:, None]
    values, scale = quantise(rows)
    assert values.dtype == FP8 and scale.shape == (5, 1)
    restored = values.float() * scale
    most = rows.abs().amax(dim=1, keepdim=True)
    # e4m3 has 3 bits of mantissa: 2^-4 relative, and 2^-10 of the largest near zero
    assert ((restored - rows).abs() <= rows.abs() * 2**-4 + most / LARGEST * 2**-9).all()
    assert torch.equal(restored[4], torch.zeros(64))


def test_reference_is_near_the_linear_layer():
    linear = nn.Linear(128, 64)
    x = torch.randn(3, 7, 128)
    exact = linear(x)
    assert (reference(x, linear) - exact).norm() / exact.norm() < 0.05


def test_vision_and_language_are_replaced_and_nothing_else():
    model = to_fp8(random_model(tiny("pi05"), torch.bfloat16))
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, Fp8Linear))}
    for name, kind in kinds.items():
        assert kind is (Fp8Linear if name.startswith(("vision.layers.", "language.layers.")) else nn.Linear), name
    assert sum(kind is Fp8Linear for kind in kinds.values()) == 2 * 6 + 2 * 7


def test_sizes_that_the_matrix_units_do_not_take_stay():
    layer = nn.Sequential(nn.Linear(24, 32), nn.Linear(32, 48))
    model = nn.Module()
    model.vision, model.language = nn.Module(), nn.Module()
    model.vision.layers, model.language.layers = layer, nn.ModuleList()
    to_fp8(model)
    assert type(layer[0]) is nn.Linear and type(layer[1]) is Fp8Linear


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused():
    with pytest.raises(ValueError, match="float8_e4m3fn needs an NVIDIA GPU"):
        DeviceConfig(target="cpu", params_dtype=FP8)
