# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels as an engine on a Hopper GPU asks for them, compiled by NVRTC, for which no GPU is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from cuda_on_cpu import MODULES

from pi_vla_ros.engine.fused.stages import statistics
from pi_vla_ros.engine.fused.weights import GemmaLayer, for_hopper
from pi_vla_ros.kernels import (
    cuda,
    expert_attention,
    expert_linear,
    flow_ahead,
    flow_loop,
    hopper_attention,
    image_attention,
    nvrtc,
)
from pi_vla_ros.kernels.hopper_columns import residual_columns
from pi_vla_ros.kernels.hopper_linear import Rows, geglu_linear, qkv_linear, residual_linear
from pi_vla_ros.kernels.vision_linear import Activations, Cut, Product, add_linear, cut_for, linear, prefix_linear

META = torch.device("meta")


if nvrtc.library() is None:
    pytest.skip("needs nvidia-cuda-nvrtc 13", allow_module_level=True)


def said(text: str, name: str) -> str:
    """What NVRTC says about a text that does not compile, else nothing."""
    try:
        return "" if nvrtc.compiled(text, name).startswith(b"\x7fELF") else "not machine code"
    except RuntimeError as error:
        return str(error)


def room(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device=META, dtype=torch.bfloat16)


def expert() -> None:
    for tokens, state, held in (50, False, False), (50, False, True), (51, True, False), (63, False, False):
        flow_loop.built(tokens, state, 18, held)
        flow_ahead.built(flow_loop.groups_of(tokens), state, 18, held)
        q, cache = room(4, tokens * 8, 256), room(4, 1088, 256)
        expert_attention.expert_attention(q, cache, cache, q, room(4), state=state, pdl=True)


def products() -> None:
    """An expert's, of two and four robots."""
    for rows, held in (200, False), (200, True), (204, False), (100, False), (252, False):
        expert_linear.begin(rows, held)


def prefix(rows: int = 976) -> None:
    """π0.5's Gemma 2B."""
    width, mlp = 2048, 16384
    layer = for_hopper(GemmaLayer(room(2560, width), room(width, 2048), room(2 * mlp, width), room(width, mlp)))
    last = for_hopper(GemmaLayer(room(512, width)))
    x, wide = Rows.of(room(rows, width)), Rows.of(room(rows, mlp))
    rope, cache = (room(rows, 128), room(rows, 128)), (room(17, 64 * 256), room(17, 64 * 256))
    for stats in statistics(width, 128, rows, META), statistics(width, 64, rows, META):
        for chunked in (True, False):
            here = cache if chunked else (room(1, rows, 256), room(1, rows, 256))
            for qkv in layer.qkv, layer.qkv.cut(256):
                qkv_linear(x, rows, qkv, stats, rope, x.a, *here, rows, chunked=chunked, pdl=True)
            qkv_linear(x, rows, last.qkv, stats, rope, None, *here, rows, chunked=chunked, pdl=True)
    geglu_linear(x, rows, layer.up, wide.a, stats, pdl=True)
    residual_linear(x, rows, layer.out, x.a, stats, pdl=True)
    residual_linear(wide, rows, layer.down, x.a, stats, pdl=True)
    for some in (304, 560, 788, 816, 1044, 1224, 1480):
        residual_columns(wide, some, layer.down, x.a, stats, pdl=True)
    hopper_attention.chunk_attention(b"", rows * 8, *cache, x.a, room(1), pdl=True)


def vision(rows: int = 768) -> None:
    """SigLIP So400m."""
    width, mlp = 1152, 4304
    x, wide = Activations.of(room(rows, width)), Activations.of(room(rows, mlp))
    norm = SimpleNamespace(weight=room(width), bias=room(width))
    moments = torch.empty(18, rows, 2, device=META)

    def product(n: int, k: int, cut: Cut, norm=None) -> Product:
        return Product.of(room(n, k), room(n), cut, norm)

    back = cut_for(width, rows, sums=True)
    linear(x, rows, product(3 * width, width, cut_for(3 * width, rows), norm), room(rows, 3 * width), moments, pdl=True)
    linear(x, rows, product(mlp, width, cut_for(mlp, rows), norm), wide.a, moments, gelu=True, pdl=True)
    add_linear(x, rows, product(width, width, back), x.a, moments, pdl=True)
    add_linear(wide, rows, product(width, mlp, back), x.a, moments, pdl=True)
    prefix_linear(
        x, rows, product(2048, width, Cut(128), norm), room(976, 2048), moments, room(16, 976), 256, 976, pdl=True
    )
    image_attention.image_attention(b"", 3, 16, x.a, pdl=True)


@pytest.mark.slow
@pytest.mark.parametrize("of", [expert, products, prefix, vision], ids=lambda f: f.__name__)
def test_nvrtc_compiles(monkeypatch, of: Callable[[], None]):
    texts: dict[tuple, str] = {}

    def kernel(name: str, defines: tuple, mmas: tuple, shared: int = cuda.SHARED) -> Callable:
        texts[(name, *defines)] = cuda.source_of(name, dict(defines), mmas)
        return lambda *_: None

    for module in MODULES:
        monkeypatch.setattr(module, "kernel", kernel)
        monkeypatch.setattr(module, "tensor_map", lambda *_: b"", raising=False)
    of()
    assert texts
    assert {key: log for key, text in texts.items() if (log := said(text, key[0]))} == {}


def test_what_nvrtc_refuses_is_said():
    assert 'identifier "y" is undefined' in said('extern "C" __global__ void k(int *x) { *x = y; }', "k")


def test_several_threads_may_compile():
    texts = [f'extern "C" __global__ void k(int *x) {{ *x = {i}; }}' for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda text: nvrtc.compiled(text, "k"), texts))
    assert at_once == [nvrtc.compiled(text, "k") for text in texts] and len(set(at_once)) == 4


def test_the_version_is_a_number():
    assert re.fullmatch(r"1[23]\.\d+", nvrtc.version())
