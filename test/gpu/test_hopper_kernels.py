# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the prefix stack against PyTorch in fp32: odd sizes, tile edges, poisoned outputs."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("needs a Hopper GPU", allow_module_level=True)

from pi_vla_ros.kernels.expert_attention import expert_attention
from pi_vla_ros.kernels.flow_loop import tiles
from pi_vla_ros.kernels.hopper_attention import chunk_attention, queries_map
from pi_vla_ros.kernels.hopper_columns import cut, residual_columns
from pi_vla_ros.kernels.hopper_linear import (
    Matrix,
    Rows,
    geglu_linear,
    packed,
    packed_pair,
    qkv_linear,
    residual_linear,
)
from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.kernels.qkv import rope_tables

BF16 = {"device": "cuda", "dtype": torch.bfloat16}
ROWS = [1, 63, 64, 65, 128, 130, 816, 976, 1044, 1224]  # a tile has 128; up to 64 left over are a tile of another kind
WIDTH, SPACE = 512, 1500


def poisoned(*shape) -> torch.Tensor:
    return torch.full(shape, float("nan"), **BF16)


def rows(m: int, k: int) -> torch.Tensor:
    """[SPACE, k], NaN behind row m: what stands there must not matter."""
    x = poisoned(SPACE, k)
    x[:m] = 2 * torch.randn(m, k, device="cuda")
    return x


def squares(x: torch.Tensor, parts: int) -> Stats:
    buffer = torch.full((parts, SPACE), float("nan"), device="cuda")
    buffer[:, : len(x)] = x.float().unflatten(1, (parts, -1)).square().sum(-1).T
    return Stats(buffer, x.shape[1])


def normed(x: torch.Tensor) -> torch.Tensor:
    return x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)


def close(got: torch.Tensor, want: torch.Tensor, limit: float = 4e-3) -> None:
    error = ((got.float() - want).norm() / want.norm()).item()
    assert error <= limit, error


@pytest.mark.parametrize("m", ROWS)
def test_geglu(m):
    x = rows(m, WIDTH)
    gate, up = (torch.randn(1024, WIDTH, **BF16) / WIDTH**0.5 for _ in range(2))
    out = poisoned(m + 1, 1024)
    geglu_linear(Rows.of(x), m, Matrix.of(packed_pair(gate, up), 256), out, squares(x[:m], 4), pdl=False)
    h = normed(x[:m])
    close(out[:m], torch.nn.functional.gelu(h @ gate.float().T, approximate="tanh") * (h @ up.float().T))
    assert out[m].isnan().all()


@pytest.mark.parametrize("m", ROWS)
def test_residual(m):
    a, w = rows(m, 1024), torch.randn(WIDTH, 1024, **BF16) / 32
    x = rows(m, WIDTH)
    want = x[:m].float() + a[:m].float() @ w.float().T
    stats = Stats(torch.full((2 * WIDTH // 128, SPACE), float("nan"), device="cuda"), WIDTH)
    residual_linear(Rows.of(a), m, Matrix.of(packed(w), 128), x, stats, pdl=False)
    close(x[:m], want)
    close(stats.buffer[:, :m].sum(0), want.square().sum(-1), 1e-4)
    assert x[m:].isnan().all()


DOWN = [(1, 64), (304, 64), (560, 72), (788, 104), (816, 104), (976, 128), (1044, 136), (1224, 160), (1480, 192)]
OUT = [(1044, 136), (1072, 136), (1224, 160)]


@pytest.mark.parametrize(("m", "tokens", "k"), [*((*s, 16384) for s in DOWN), *((*s, 2048) for s in OUT)])
def test_residual_by_columns(m, tokens, k):
    """The published sizes: several tiles of tokens, all 16 of weights; 20 launches leave the same bits."""
    n = 2048
    assert cut(m, n)[1] == tokens
    a, before = rows(m, k), rows(m, n)
    w = torch.randn(n, k, **BF16) / k**0.5
    matrix, want = Matrix.of(packed(w), 128), before[:m].float() + a[:m].float() @ w.float().T
    runs = []
    for _ in range(20):
        x, stats = before.clone(), Stats(torch.full((n // 64, SPACE), float("nan"), device="cuda"), n)
        residual_columns(Rows.of(a), m, matrix, x, stats, pdl=False)
        runs.append((x, stats.buffer))
    x, sums = runs[0]
    close(x[:m], want)
    close(sums[:, :m].sum(0), want.square().sum(-1), 1e-4)
    assert x[m:].isnan().all() and sums[:, m:].isnan().all()
    assert all(torch.equal(y[:m], x[:m]) and torch.equal(s[:, :m], sums[:, :m]) for y, s in runs)
    by_rows = before.clone()  # the same weight in the same memory
    residual_linear(Rows.of(a), m, matrix, by_rows, Stats(sums, n), pdl=False)
    close(by_rows[:m], x[:m].float())
    close(sums[:, :m].sum(0), want.square().sum(-1), 1e-4)


def positions(chunks: torch.Tensor) -> torch.Tensor:
    """[chunks, 64 · 256] -> [64 · chunks, 256]: the tiles' swizzle is its own inverse."""
    plain = tiles(chunks.view(-1, 64), 64)  # every tile once more
    return plain.view(-1, 4, 64, 64).transpose(1, 2).reshape(-1, 256)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("width", [160, 256])
@pytest.mark.parametrize("m", ROWS)
def test_qkv(m, width, chunked):
    if not chunked and m % 2:
        pytest.skip("two robots")
    x, w = rows(m, WIDTH), torch.randn(2560, WIDTH, **BF16) / WIDTH**0.5
    cos, sin = rope_tables(SPACE, 256, torch.device("cuda"))
    tokens = m if chunked else m // 2
    q, shape = poisoned(m, 2048), (20, 64 * 256) if chunked else (2, 640, 256)
    keys, values = poisoned(*shape), poisoned(*shape)
    qkv_linear(Rows.of(x), m, Matrix.of(packed(w), width), squares(x[:m], 4), (cos, sin), q, keys, values, tokens,
               chunked=chunked, pdl=False)  # fmt: skip
    place = torch.arange(m, device="cuda") % tokens
    y = (normed(x[:m]) @ w.float().T).unflatten(1, (10, 256))
    c, s = cos[place][:, None], sin[place][:, None]
    turned = torch.stack([y[..., 0::2] * c - y[..., 1::2] * s, y[..., 1::2] * c + y[..., 0::2] * s], -1).flatten(-2)
    close(q, turned[:, :8].flatten(1))
    for got, want in ((keys, turned[:, 8]), (values, y[:, 9])):
        if chunked:
            got = positions(got)
            end = -(-m // 64) * 64
            close(got[:m], want)
            assert (got[m:end] == 0).all()  # an attention's weight of 0 times anything but NaN
        else:
            close(got[:, :tokens].flatten(0, 1), want)
            assert got[:, tokens:].isnan().all()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 968, 1024, 1224])
@pytest.mark.parametrize("count", [16, 1008, 7808, 9792])
def test_attention(length, count):
    q, plain = torch.randn(count, 256, **BF16), torch.randn(2, 20 * 64, 256, **BF16)
    plain[:, length:] = 0
    keys, values = (
        tiles(t.view(20, 64, 4, 64).transpose(1, 2).reshape(-1, 64), 64).view(20, 64 * 256).contiguous() for t in plain
    )
    out = poisoned(count + 1, 256)
    lengths = torch.tensor([length], device="cuda", dtype=torch.int32)
    ready = torch.tensor([3, 7], device="cuda", dtype=torch.int32)
    chunk_attention(queries_map(q), count, keys, values, out, lengths, ready, pdl=False)
    k, v = plain[:, :length].float()
    close(out[:count], torch.softmax(q.float() @ k.T / 16, -1) @ v)
    assert out[count].isnan().all()
    assert ready.tolist() == [4, 7]  # once a launch


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    ("starts", "tokens"),
    [([968, 801, 784, 967], 50), ([788, 1], 51), ([2040], 63), ([63, 64, 65, 448, 449, 960], 10), ([976] * 7, 64)],
)
def test_expert_attention(starts, tokens, state):
    robots, rows = len(starts), tokens * 8
    q, (keys, values) = torch.randn(robots, rows, 256, **BF16), torch.randn(2, robots, 2112, 256, **BF16)
    for robot, start in enumerate(starts):  # NaN behind the last key
        keys[robot, start + tokens :] = values[robot, start + tokens :] = float("nan")
    out, first = poisoned(robots + 1, rows, 256), None
    for _ in range(20):
        expert_attention(q, keys, values, out[:robots], torch.tensor(starts, device="cuda", dtype=torch.int32),
                         state=state, pdl=True)  # fmt: skip
        first = out.clone() if first is None else first
        assert torch.equal(out[:robots], first[:robots])
    token = torch.arange(rows, device="cuda")[:, None] // 8
    for robot, start in enumerate(starts):
        n = start + tokens
        seen = (token > 0) | (torch.arange(n, device="cuda") <= start) | (not state)
        score = (q[robot].float() @ keys[robot, :n].float().T / 16).masked_fill(~seen, -torch.inf)
        close(out[robot], torch.softmax(score, -1) @ values[robot, :n].float())
    assert out[robots].isnan().all()
