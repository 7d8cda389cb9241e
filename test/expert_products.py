# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The expert's products of several robots (kernels/expert_linear.py) on random inputs, compared with what they equal in
fp32: on the CPU, where cuda_on_cpu runs them, and on a GPU. Each returns what it wrote; nothing else may be. NaN stands
wherever nothing may be read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vla_ros.kernels.expert_linear import SUMMED, expert_geglu, expert_qkv, expert_residual
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.kernels.qkv import rope_tables

WIDTH, MLP, NAN = 1024, 4096, float("nan")
CLUSTERS = {1: 132, 2: 66, 3: 39, 6: 17}  # programs in a cluster -> how many an H200 holds at once


@dataclass(frozen=True)
class Batch:
    """plain: without modulation (π0); delays: committed actions of each robot (trained real-time chunking)."""

    robots: int
    tokens: int
    delays: tuple[int, ...] | None = None
    plain: bool = False
    device: str = "cpu"

    @property
    def rows(self) -> int:
        return self.robots * self.tokens

    @property
    def delay(self) -> Tensor | None:
        return None if self.delays is None else self.whole(self.delays)

    def whole(self, numbers) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.device)

    def random(self, *shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(shape, device=self.device)).bfloat16()

    def nothing(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.full(shape, NAN, dtype=dtype, device=self.device)

    def inputs(self, n: int, k: int) -> tuple[Tensor, Tensor]:
        """a [M, k], with NaN behind it in memory, and w [n, k]."""
        space = self.nothing(self.rows + 70, k)
        space[: self.rows] = self.random(self.rows, k, size=2)
        return space[: self.rows], self.random(n, k, size=k**-0.5)

    def sums(self, a: Tensor, parts: int) -> Stats:
        buffer = self.nothing(parts, self.rows + 70, dtype=torch.float32)
        buffer[:, : self.rows] = a.float().unflatten(1, (parts, -1)).square().sum(-1).T
        return Stats(buffer, a.shape[1])

    def table(self, n: int) -> Tensor | None:
        if self.plain:
            return None
        return torch.randn(n if self.delays is None else (2, n), device=self.device)

    def of_rows(self, table: Tensor | None, otherwise: float = 0.0) -> Tensor | float:
        """[M, n], [n], or a number."""
        if table is None or self.delays is None:
            return otherwise if table is None else table
        row = torch.arange(self.rows, device=self.device)
        return table[(row % self.tokens < self.delay[row // self.tokens]).int()]


def close(got: Tensor, want: Tensor, limit: float = 4e-3) -> None:
    error = ((got.float() - want).norm() / want.norm()).item()
    assert error <= limit, error


def normed(x: Tensor) -> Tensor:
    return x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)


def qkv(batch: Batch, heads: int = 8, k: int = WIDTH, parts: int = 8) -> list[Tensor]:
    n, rows, robots, tokens = (heads + 2) * 256, batch.rows, batch.robots, batch.tokens
    (a, w), bias, q = batch.inputs(n, k), batch.table(n), batch.nothing(rows + 1, heads * 256)
    starts = [(29 * robot + 17) % 90 for robot in range(robots)]
    cos, sin = rope_tables(90 + tokens, 256, a.device)
    keys, values = (batch.nothing(robots, 95 + tokens, 256) for _ in range(2))
    expert_qkv(a, w, batch.sums(a, parts), (cos, sin), q[:rows], keys, values, tokens, pdl=True, bias=bias,
               start=batch.whole(starts), delay=batch.delay)  # fmt: skip
    y = (normed(a) @ w.float().T + batch.of_rows(bias)).view(robots, tokens, heads + 2, 256)
    place = (torch.tensor(starts)[:, None] + torch.arange(tokens)).to(a.device)
    c, s = cos[place][:, :, None], sin[place][:, :, None]
    turned = torch.stack([y[..., 0::2] * c - y[..., 1::2] * s, y[..., 1::2] * c + y[..., 0::2] * s], -1).flatten(-2)
    close(q[:rows], turned[:, :, :heads].reshape(rows, -1))
    assert q[rows].isnan().all()
    for cache, want in ((keys, turned[:, :, heads]), (values, y[:, :, heads + 1])):
        for robot, start in enumerate(starts):
            close(cache[robot, start : start + tokens], want[robot])
            assert cache[robot, :start].isnan().all() and cache[robot, start + tokens :].isnan().all()
    return [q[:rows], keys.nan_to_num(), values.nan_to_num()]


def residual(batch: Batch, n: int = WIDTH, k: int = 2 * WIDTH) -> list[Tensor]:
    rows = batch.rows
    (a, w), gate, scale = batch.inputs(n, k), batch.table(n), batch.table(n)
    x, h = batch.nothing(rows + 1, n, dtype=torch.float32), batch.nothing(rows + 1, n)
    x[:rows] = torch.randn(rows, n, device=a.device)
    stats = Stats(batch.nothing(n // SUMMED, rows + 3, dtype=torch.float32), n)
    want = x[:rows] + a.float() @ w.float().T * batch.of_rows(gate, 1.0)
    expert_residual(a, w, x[:rows], h[:rows], gate, scale, stats, pdl=True, delay=batch.delay, tokens=batch.tokens)
    close(x[:rows], want, 1e-4)
    close(h[:rows], want * (1 + batch.of_rows(scale)))
    close(stats.buffer[:, :rows], want.unflatten(1, (-1, SUMMED)).square().sum(-1).T, 1e-4)
    assert x[rows].isnan().all() and h[rows].isnan().all() and stats.buffer[:, rows:].isnan().all()
    return [x[:rows], h[:rows], stats.buffer[:, :rows]]


def geglu(batch: Batch, n: int = 2 * MLP, k: int = WIDTH, parts: int = 8) -> list[Tensor]:
    (a, w), bias, out = batch.inputs(n, k), batch.table(n), batch.nothing(batch.rows + 1, n // 2)
    expert_geglu(
        a, w, out[: batch.rows], batch.sums(a, parts), pdl=True, bias=bias, delay=batch.delay, tokens=batch.tokens
    )
    y = normed(a) @ w.float().T + batch.of_rows(bias)
    close(out[: batch.rows], torch.nn.functional.gelu(y[:, 0::2], approximate="tanh") * y[:, 1::2])
    assert out[batch.rows].isnan().all()
    return [out[: batch.rows]]
