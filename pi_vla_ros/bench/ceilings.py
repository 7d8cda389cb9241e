# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a device does at best, measured, and the time below which no program can run a step on it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from pi_vla_ros.bench.case import DTYPES, Case
from pi_vla_ros.engine.fp8 import FP8
from pi_vla_ros.model.geometry import GemmaGeometry, Geometry


@dataclass(frozen=True)
class Ceilings:
    """tflops: of a large matrix product in the case's precision; copy, read: TB/s of device memory (a copy's bytes are
    those read and those written); vision_tflops: in the vision tower's precision, where it has its own."""

    tflops: float
    copy_tbytes: float
    read_tbytes: float
    vision_tflops: float | None = None

    @classmethod
    def measure(cls, device: torch.device, precision: str, vision: str | None = None) -> Ceilings:
        gpu = device.type == "cuda"
        n = 8192 if gpu else 512
        data = torch.zeros(1 << (28 if gpu else 22), device=device)
        there = torch.empty_like(data)

        def tflops(precision: str) -> float:
            return round(2 * n**3 / _seconds(_product(n, DTYPES[precision], device), device) / 1e12, 3)

        return cls(
            tflops(precision),
            round(2 * data.nbytes / _seconds(lambda: there.copy_(data), device) / 1e12, 3),
            round(data.nbytes / _seconds(data.sum, device) / 1e12, 3),
            tflops(vision) if vision else None,
        )


def _product(n: int, dtype: torch.dtype, device: torch.device):
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    if dtype != FP8:
        a, b = a.to(dtype), b.to(dtype)
        return lambda: a @ b
    a, b, one = a.to(dtype), b.to(dtype).T, torch.ones((), device=device)
    return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _seconds(work, device: torch.device, repeats: int = 10) -> float:
    """The fastest of a few runs, after warm-up."""
    spent = []
    for _ in range(3 + repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            spent.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
    return min(spent[3:])


def floor_ms(g: Geometry, case: Case, ceilings: Ceilings) -> float:
    """Vision and prefix at the arithmetic ceiling; the expert at that of memory, its weights read once a step, or at
    the arithmetic one where many robots share them."""
    v, seen = g.vision, case.views * g.vision.tokens
    tokens = seen + case.prompt_len
    vision = seen * v.depth * (4 * v.width**2 + 2 * v.width * v.mlp + 2 * v.tokens * v.width)
    attention = 2 * tokens**2 * g.language.heads * g.language.head_dim
    prefix = (g.language.depth - 1) * (tokens * _weights(g.language) + attention)  # of the last layer only K and V
    read = case.steps * g.expert.depth * _weights(g.expert)
    per_weight = 4 if case.precision == "fp32" else 2  # bytes; the expert stays bf16 under fp8
    arithmetic = 2e3 / (ceilings.tflops * 1e12)  # ms a multiply-add
    in_vision = 2e3 / ((ceilings.vision_tflops or ceilings.tflops) * 1e12)
    memory = 1e3 * per_weight / (ceilings.read_tbytes * 1e12)  # ms a weight
    expert = max(read * memory, case.batch * g.suffix * read * arithmetic)
    return case.batch * (vision * in_vision + prefix * arithmetic) + expert


def _weights(s: GemmaGeometry) -> int:
    """Numbers in a layer's matrices."""
    return s.width * (s.heads + 1) * s.head_dim * 2 + 3 * s.width * s.mlp
