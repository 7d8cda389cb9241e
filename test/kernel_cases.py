# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel beside the PyTorch function that it equals: run by the interpreter on the CPU
(test_kernels_each.py) and on a GPU (gpu/test_kernels_cuda.py).

A case runs a kernel on random inputs and returns (name, what it gave, what it should give in fp32). Sizes are odd or
just around a tile's edge. Inputs stand in front of NaNs and results between NaNs (`Guard`): what reads or writes
outside its rows is found out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pi_vla_ros.kernels.attention import attention, split_attention
from pi_vla_ros.kernels.embed import patches, text
from pi_vla_ros.kernels.geglu import geglu, row_sums
from pi_vla_ros.kernels.heads import turn
from pi_vla_ros.kernels.layer_norm import layer_norm
from pi_vla_ros.kernels.linear import Stats, Tile, linear
from pi_vla_ros.kernels.noise import draw
from pi_vla_ros.kernels.qkv import paired, qkv, rope_tables
from pi_vla_ros.kernels.residual import residual
from pi_vla_ros.kernels.vision_attention import vision_attention
from pi_vla_ros.kernels.vision_linear import row_moments
from pi_vla_ros.model.rtc import Committed, Guidance

EPS = 1e-6
Results = list[tuple[str, Tensor, Tensor]]


@dataclass
class Bench:
    """Makes inputs of one device and dtype; `check` also looks at what had to stay untouched."""

    device: torch.device
    dtype: torch.dtype
    pdl: bool = False
    seed: int = 0
    _guards: list[Tensor] = field(default_factory=list)

    def __post_init__(self):
        self._rng = torch.Generator().manual_seed(self.seed)

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Random numbers with NaN behind them, in the kernels' dtype."""
        t = self._behind(shape, dtype or self.dtype)
        return t.copy_(torch.randn(shape, generator=self._rng))

    def ints(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=torch.int32)

    def room(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """For a result: NaN, with rows of NaN before and behind that have to stay so."""
        whole = torch.full((shape[0] + 2, *shape[1:]), float("nan"), device=self.device, dtype=dtype or self.dtype)
        self._guards += [whole[0], whole[-1]]
        return whole[1:-1]

    def stats(self, x: Tensor, parts: int) -> Stats:
        """Σx² of the rows of x, in `parts` uneven parts."""
        square = x.float().square().sum(-1)
        shares = torch.rand(parts, len(x), generator=self._rng).to(self.device) + 0.1
        return Stats(square * shares / shares.sum(0), x.shape[1])

    def check(self, results: Results, tolerance: float) -> None:
        for name, got, want in results:
            error = (got.double() - want.double()).norm() / want.double().norm()
            assert error < tolerance, f"{name}: relative error {error:.1e}"  # NaN fails, too
        for edge in self._guards:
            assert edge.isnan().all(), "written outside the result"

    def _behind(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        whole = torch.full((shape[0] + 3, *shape[1:]), float("nan"), device=self.device, dtype=dtype)
        return whole[: shape[0]]


Delays = list[int] | None  # a robot's first actions that are committed (model/rtc.py)


def held_by(b: Bench, rows: int, delays: Delays) -> dict:
    """The arguments that say so."""
    return {"delay": b.ints(delays), "tokens": rows // len(delays)} if delays else {}


def of_rows(table: Tensor, rows: int, delays: Delays) -> Tensor:
    """[2, N] -> [rows, N]: the second where a row is committed; without delays the table itself."""
    if not delays:
        return table
    tokens = rows // len(delays)
    return table[[int(row % tokens < delays[row // tokens]) for row in range(rows)]]


def normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def gated(y: Tensor) -> Tensor:
    """gate and up in turn"""
    return F.gelu(y[:, 0::2], approximate="tanh") * y[:, 1::2]


def linear_case(b: Bench, m: int, n: int, k: int, tile: Tile, *, norm=False, bias=False, geglu=False,
                repeat: int = 0, sums=False, delays: Delays = None) -> Results:  # fmt: skip
    """repeat: the residual has this many rows; delays: of as many robots, who have the rows in equal shares."""
    a, w = b.randn(m, k), b.randn(n, k)
    columns = n // 2 if geglu else n
    out = b.room(m, columns)
    add = b.randn(2, n, dtype=torch.float32) if delays else b.randn(n, dtype=torch.float32) if bias else None
    rest = b.randn(repeat, columns, dtype=torch.float32) if repeat else None
    stats_out = Stats(b.room(-(-n // tile.bn), m, dtype=torch.float32), n) if sums else None
    linear(a, w, out, tile, pdl=b.pdl, stats_in=b.stats(a, 3) if norm else None, bias=add, geglu=geglu, residual=rest,
           residual_rows=repeat or 1 << 30, stats_out=stats_out, **held_by(b, m, delays))  # fmt: skip
    y = (normed(a.float()) if norm else a.float()) @ w.float().T
    y = y + of_rows(add, m, delays) if bias else y
    y = gated(y) if geglu else y
    y = y + rest[torch.arange(m) % repeat] if repeat else y
    results = [("product", out, y)]
    if sums:
        results.append(("row sums", stats_out.buffer.sum(0), y.square().sum(-1)))
    return results


def images_case(b: Bench, images: int, rows: int, apart: int, n: int, k: int, tile: Tile) -> Results:
    """The projector's layout: images of `rows` rows go to places `apart` rows apart."""
    a, w = b.randn(images * rows, k), b.randn(n, k)
    out = b.room(images * apart, n)
    stats = Stats(b.room(-(-n // tile.bn), images * apart, dtype=torch.float32), n)
    linear(a, w, out, tile, pdl=b.pdl, stats_out=stats, image_rows=rows, image_stride=apart)
    y = (a.float() @ w.float().T).unflatten(0, (images, rows))
    there = out.unflatten(0, (images, apart))
    assert there[:, rows:].isnan().all(), "written between the images"
    sums = stats.buffer.sum(0).unflatten(0, (images, apart))[:, :rows]
    return [("product", there[:, :rows], y), ("row sums", sums, y.square().sum(-1))]


def qkv_case(b: Bench, robots: int, tokens: int, heads: int, d: int, k: int, tile: Tile, *, starts=None,
             bias=False, delays: Delays = None) -> Results:  # fmt: skip
    m, n, key_rows = robots * tokens, (heads + 2) * d, tokens + 9
    x, plain = b.randn(m, k), b.randn(n, k)
    w = torch.cat([paired(plain[: (heads + 1) * d], d), plain[(heads + 1) * d :]])
    add = b.randn(2, n, dtype=torch.float32) if delays else b.randn(n, dtype=torch.float32) if bias else None
    q, keys, values = b.room(m, heads * d), b.room(robots, key_rows, d), b.room(robots, key_rows, d)
    rope = rope_tables(key_rows, d, b.device)
    qkv(x, w, b.stats(x, 2), rope, q, keys, values, tokens, tile, pdl=b.pdl, bias=add,
        start=None if starts is None else b.ints(starts), delay=None if delays is None else b.ints(delays))  # fmt: skip
    y = normed(x.float()) @ w.float().T
    y = (y + of_rows(add, m, delays) if bias else y).view(robots, tokens, heads + 2, d)
    results = []
    for robot, first in enumerate(starts or [0] * robots):
        own = slice(first, first + tokens)
        cos, sin = (t[own, None] for t in rope)
        y1, y2 = y[robot, :, :-1, 0::2], y[robot, :, :-1, 1::2]
        turned = torch.stack([y1 * cos - y2 * sin, y2 * cos + y1 * sin], -1).flatten(-2)
        results += [
            ("queries", q.view(robots, tokens, heads, d)[robot], turned[:, :-1]),
            ("keys", keys[robot, own], turned[:, -1]),
            ("values", values[robot, own], y[robot, :, -1]),
        ]
        for cache in (keys, values):
            assert cache[robot, :first].isnan().all() and cache[robot, first + tokens :].isnan().all()
    return results


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    score = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, float("-inf"))
    return score.softmax(-1) @ v


def attention_case(b: Bench, lengths: list[int], rows: int, d: int, key_rows: int, bm: int, bk: int) -> Results:
    robots = len(lengths)
    q = b.randn(robots, rows, d)
    keys, values = (b.randn(robots, key_rows, d) for _ in range(2))
    for robot, length in enumerate(lengths):
        keys[robot, length:] = values[robot, length:] = float("nan")
    out = b.room(robots, rows, d)
    attention(q, keys, values, out, b.ints(lengths), bm=bm, bk=bk, stages=2, warps=4, pdl=b.pdl)
    results = []
    for r, n in enumerate(lengths):
        everything = torch.ones(rows, n, dtype=torch.bool, device=b.device)
        want = attended(q[r].float(), keys[r, :n].float(), values[r, :n].float(), everything)
        results.append((f"robot {r}", out[r], want))
    return results


def split_case(b: Bench, starts: list[int], tokens: int, heads: int, d: int, bm: int, bk: int, blocks: int,
               state: bool) -> Results:  # fmt: skip
    robots, rows, longest = len(starts), tokens * heads, max(starts) + tokens
    key_rows = longest + 5
    q = b.randn(robots, rows, d)
    keys, values = (b.randn(robots, key_rows, d) for _ in range(2))
    for robot, start in enumerate(starts):
        keys[robot, start + tokens :] = values[robot, start + tokens :] = float("nan")
    out = b.room(robots, rows, d)
    pieces = -(-longest // (bk * blocks))
    answers, weights = b.room(pieces, robots * rows, d), b.room(pieces, robots * rows, dtype=torch.float32)
    split_attention(q, keys, values, out, b.ints(starts), heads, longest, answers, weights, bm=bm, bk=bk, blocks=blocks,
                    warps=4, join_rows=4, state=state, pdl=b.pdl)  # fmt: skip
    results = []
    for r, start in enumerate(starts):
        n = start + tokens
        key, token = torch.arange(n, device=b.device)[None], torch.arange(rows, device=b.device)[:, None] // heads
        seen = (key <= start) | (token > 0) if state else key >= 0
        want = attended(q[r].float(), keys[r, :n].float(), values[r, :n].float(), seen.expand(rows, n))
        results.append((f"robot {r}", out[r], want))
    return results


def vision_attention_case(b: Bench, images: int, tokens: int, heads: int, d: int, bm: int, bk: int) -> Results:
    packed, out = b.randn(images * tokens, 3 * heads * d), b.room(images * tokens, heads * d)
    vision_attention(packed, out, tokens, heads, bm=bm, bk=bk, stages=2, warps=4, pdl=b.pdl)
    parts = packed.float().view(images, tokens, 3, heads, d).permute(2, 0, 3, 1, 4)
    want = F.scaled_dot_product_attention(*parts.unbind()).transpose(1, 2)
    return [("answer", out, want.reshape(out.shape))]


def geglu_case(b: Bench, m: int, n: int, parts: int) -> Results:
    x, y, out = b.randn(m, 24), b.randn(m, 2 * n), b.room(m, n)
    geglu(y, out, b.stats(x, parts), pdl=b.pdl)
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)
    gate, up = (y.float() * scale).chunk(2, -1)
    return [("gated", out, F.gelu(gate, approximate="tanh") * up)]


def row_sums_case(b: Bench, m: int, n: int) -> Results:
    x, stats = b.randn(m, n), Stats(b.room(1, m, dtype=torch.float32), n)
    row_sums(x, stats, pdl=b.pdl)
    return [("sums", stats.buffer[0], x.float().square().sum(-1))]


def row_moments_case(b: Bench, m: int, parts: int, part: int) -> Results:
    x, moments = b.randn(m, parts * part), b.room(parts, m, 2, dtype=torch.float32)
    row_moments(x, moments, pdl=b.pdl)
    of = x.float().unflatten(1, (parts, part))
    return [("moments", moments, torch.stack([of.sum(-1), of.square().sum(-1)], -1).transpose(0, 1))]


def residual_case(b: Bench, m: int, n: int, k: int, tile: Tile, *, gate: bool, before: bool,
                  delays: Delays = None) -> Results:  # fmt: skip
    a, w = b.randn(m, k), b.randn(n, k)
    x, h = b.room(m, n, dtype=torch.float32), b.room(m, n)
    given = b.randn(m, n, dtype=torch.float32)
    shape = (2, n) if delays else (n,)
    factors = [b.randn(*shape, dtype=torch.float32) if gate else None for _ in range(2)]
    if not before:
        x.copy_(given)
    tiles_m, tiles_n = -(-m // tile.bm), -(-n // tile.bn)
    stats = Stats(b.room(tiles_n, m, dtype=torch.float32), n)
    workspace = b.room(tiles_m * tiles_n * tile.split, tile.bm * tile.bn, dtype=torch.float32)
    arrived = torch.zeros(tiles_m * tiles_n, dtype=torch.int32, device=b.device)
    residual(a, w, x, h, *factors, stats, workspace, arrived, tile, pdl=b.pdl, before=given if before else None,
             **held_by(b, m, delays))  # fmt: skip
    assert not arrived.any(), "the counters must be left as zeros"
    added = a.float() @ w.float().T
    want = given + (added * of_rows(factors[0], m, delays) if gate else added)
    scaled = want * (1 + of_rows(factors[1], m, delays)) if gate else want
    return [("x", x, want), ("h", h, scaled), ("row sums", stats.buffer.sum(0), want.square().sum(-1))]


def turn_case(b: Bench, robots: int, actions: int, width: int, dim: int, *, state: int, leave: bool,
              enter: str | None, delays: Delays = None, guided=False) -> Results:  # fmt: skip
    """enter: None, "adaptive" (π0.5) or "silu" (π0); delays, guided: real-time chunking, trained or guided."""
    fp32 = {"dtype": torch.float32}
    tokens, n = actions + state, robots * actions
    x_t, before = b.randn(n, dim, **fp32), b.randn(robots * tokens, width, **fp32)
    out_w, out_b = b.randn(dim, width, **fp32), b.randn(dim, **fp32)
    in_w, in_b = b.randn(width, dim, **fp32), b.randn(width, **fp32)
    scale = b.randn(2, width, **fp32) if delays else b.randn(width, **fp32)
    target, weights, most = b.randn(n, dim, **fp32), b.randn(n, **fp32), b.randn(robots, **fp32).abs()
    weights[: n // 2] = 0.0
    rows, h = b.room(robots * tokens, width, **fp32), b.room(robots * tokens, width)
    stats = Stats(b.room(2, robots * tokens, **fp32), width)
    want = x_t.clone()
    own = torch.arange(robots * tokens, device=b.device).view(robots, tokens)[:, state:].flatten()
    time, steps, rtc = 0.7, 3, None
    if leave:
        move = normed(before[own]) @ out_w.T + out_b
        if guided:
            rtc = Guidance(target, weights, most)
            strength = 0.7 / 0.3 * (0.3**2 + 0.7**2) / 0.7**2  # (1 − τ) / τ · (τ² + (1 − τ)²) / (1 − τ)², τ = 1 − time
            pull = most.clamp(max=strength).repeat_interleave(actions) / steps * weights
            move += pull[:, None] * (target - (want + time * steps * move))
        want += move
    if delays:
        rtc = Committed(target, b.ints(delays))
        held = torch.tensor([a < d for d in delays for a in range(actions)], device=b.device)
        want = torch.where(held[:, None], target, want)
    adaptive = enter == "adaptive"
    turn(x_t, pdl=b.pdl, tokens=tokens, state=state, leave=(before, out_w, out_b) if leave else None,
         enter=(rows, h if adaptive else None, in_w, in_b) if enter else None, stats=stats if adaptive else None,
         scale=scale if adaptive else None, silu=enter == "silu", rtc=rtc, time=time, steps=steps)  # fmt: skip
    results = [("x_t", x_t, want)]
    if enter:
        y = want @ in_w.T + in_b
        y = F.silu(y) if enter == "silu" else y
        results.append(("rows", rows[own], y))
        if state:
            assert rows.view(robots, tokens, width)[:, 0].isnan().all(), "the state's row is not the actions'"
    if adaptive:
        results += [
            ("h", h[own], y * (1 + of_rows(scale, n, delays))),
            ("sums", stats.buffer.sum(0)[own], y.square().sum(-1)),
        ]
    return results


def philox(seed: int, counter: list[int]) -> list[int]:
    """Philox 4x32-10 (Salmon et al. 2011) of one counter of four words."""
    mask, key, c = 0xFFFFFFFF, [seed & 0xFFFFFFFF, seed >> 32], counter
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return c


def noise_case(b: Bench, keys: list[tuple[int, int, int, int]], actions: int, dim: int) -> Results:
    """keys: drawn, seed, stream, draw."""
    x_t, scale = b.room(len(keys), actions, dim, dtype=torch.float32), torch.rand(len(keys)) + 0.5
    draw(x_t, torch.tensor(keys, device=b.device), scale.to(b.device), pdl=b.pdl)
    results = []
    for robot, (drawn, seed, stream, number) in enumerate(keys):
        if not drawn:
            assert x_t[robot].isnan().all(), "noise that was given is not drawn over"
            continue
        words = torch.tensor([philox(seed, [i, stream, number, 0])[:2] for i in range(actions * dim)])
        # into [0, 1) as signed words without their sign, then Box and Muller
        u = torch.where(words >= 1 << 31, (1 << 32) - 1 - words, words).double() / 2**31
        normal = (-2 * u[:, 0].clamp(min=1e-7).log()).sqrt() * (2 * torch.pi * u[:, 1]).cos()
        results.append((f"robot {robot}", x_t[robot].cpu(), scale[robot] * normal.view(actions, dim)))
    return results


def patches_case(b: Bench, images: int, size: int, patch: int, frames: bool = False) -> Results:
    pixels = b.randn(images, 3, size, size, dtype=torch.float32)
    if frames:
        given = torch.randint(256, (images, size, size, 3), dtype=torch.uint8).to(b.device)
        pixels = given.permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
    out = b.room(images * (size // patch) ** 2, 3 * patch * patch + 4, dtype=torch.float32)
    patches(given if frames else pixels, out, patch, pdl=b.pdl)
    want = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    assert out[:, -4:].isnan().all(), "the padding is not the kernel's"
    return [("patches", out[:, :-4], want)]


def text_case(b: Bench, robots: int, length: int, width: int, first: int) -> Results:
    words, share = b.randn(robots, length, width), first + length
    out, stats = b.room(robots * share, width), Stats(b.room(3, robots * share, dtype=torch.float32), width)
    text(words, out, share, first, stats, pdl=b.pdl)
    want = words.float() * width**0.5
    there = out.view(robots, share, width)
    assert there[:, :first].isnan().all(), "the cameras' rows are not the text's"
    sums = stats.buffer.sum(0).view(robots, share)[:, first:]
    return [("rows", there[:, first:], want), ("sums", sums, want.square().sum(-1))]


def layer_norm_case(b: Bench, m: int, width: int) -> Results:
    x, h = b.randn(m, width), b.room(m, width)
    shift, weight, bias = (b.randn(width, dtype=torch.float32) for _ in range(3))
    layer_norm(x, h, shift, weight, bias, pdl=b.pdl)
    return [("h", h, F.layer_norm(x.float() + shift, (width,), weight, bias, EPS))]


SMALL = Tile(16, 32, 16, 2, 4)
CASES = {
    # around the edge of a tile in every direction, and one row
    **{
        f"linear {m}x{n}x{k}": (linear_case, (m, n, k, SMALL), {})
        for m, n, k in ((1, 32, 16), (16, 32, 16), (17, 33, 24), (15, 31, 40), (33, 65, 48))
    },
    "linear norm": (linear_case, (19, 40, 56, SMALL), {"norm": True}),
    "linear bias": (linear_case, (19, 41, 56, SMALL), {"bias": True}),
    "linear norm bias geglu": (linear_case, (18, 72, 24, SMALL), {"norm": True, "bias": True, "geglu": True}),
    "linear, some committed": (linear_case, (22, 40, 24, SMALL), {"bias": True, "delays": [3, 0]}),
    "linear residual sums": (linear_case, (35, 50, 24, SMALL), {"repeat": 7, "bias": True, "sums": True}),
    "linear images": (images_case, (3, 9, 14, 40, 24, SMALL), {}),
    "linear images, one": (images_case, (1, 16, 16, 32, 16, SMALL), {}),
    "qkv prefix": (qkv_case, (2, 11, 3, 16, 40, SMALL), {}),
    "qkv expert": (qkv_case, (2, 7, 2, 32, 24, SMALL), {"starts": [9, 1], "bias": True}),
    "qkv, some committed": (qkv_case, (2, 7, 2, 16, 24, SMALL), {"starts": [9, 1], "bias": True, "delays": [0, 5]}),
    "qkv one token, tile across heads": (qkv_case, (1, 1, 1, 16, 16, Tile(16, 64, 16, 2, 4)), {"starts": [3]}),
    "attention edges": (attention_case, ([1, 16, 17, 31], 10, 16, 32, 16, 16), {}),
    "attention, d 24": (attention_case, ([23], 33, 24, 23, 32, 16), {}),
    **{
        f"split attention {blocks} {state}": (split_case, ([0, 13, 29], 5, 3, 16, 16, 16, blocks, state), {})
        for blocks in (1, 2)
        for state in (False, True)
    },
    "vision attention": (vision_attention_case, (2, 19, 3, 24, 16, 16), {}),
    "vision attention, whole tiles": (vision_attention_case, (1, 32, 2, 16, 16, 16), {}),
    "geglu": (geglu_case, (5, 37, 3), {}),
    "geglu, more than a block": (geglu_case, (2, 2056, 1), {}),
    "row sums": (row_sums_case, (7, 45), {}),
    "row moments": (row_moments_case, (5, 3, 20), {}),
    **{
        f"residual split {split}": (
            residual_case,
            (19, 40, 8 * 9, Tile(16, 32, 16, 2, 4, split)),
            {"gate": split != 2, "before": split == 2},
        )
        for split in (1, 2, 3, 4)
    },
    **{
        f"turn state {state} {leave} {enter}": (
            turn_case,
            (2, 5, 40, 7),
            {"state": state, "leave": leave, "enter": enter},
        )
        for state, leave, enter in (
            (0, False, "adaptive"),
            (0, True, "adaptive"),
            (0, True, None),
            (1, False, "silu"),
            (1, True, "silu"),
            (1, True, None),
        )
    },
    "residual, some committed": (
        residual_case,
        (20, 40, 24, Tile(16, 32, 16, 2, 4, 2)),
        {"gate": True, "before": False, "delays": [0, 10, 1, 4]},
    ),
    "turn guided": (turn_case, (2, 5, 40, 7), {"state": 1, "leave": True, "enter": "silu", "guided": True}),
    "turn committed": (turn_case, (2, 5, 40, 7), {"state": 0, "leave": True, "enter": "adaptive", "delays": [5, 2]}),
    "turn committed, first": (
        turn_case,
        (3, 5, 40, 7),
        {"state": 0, "leave": False, "enter": "adaptive", "delays": [0, 1, 4]},
    ),
    "noise": (noise_case, ([(1, 7, 0, 0), (0, 7, 1, 0), (1, 2**33 + 5, 3, 9)], 9, 32), {}),
    "turn, more than a block": (turn_case, (1, 3, 300, 32), {"state": 0, "leave": True, "enter": "adaptive"}),
    "patches": (patches_case, (2, 28, 14), {}),
    "patches, more": (patches_case, (3, 42, 14), {}),
    "patches of frames": (patches_case, (3, 42, 14), {"frames": True}),
    "text": (text_case, (2, 6, 40, 11), {}),
    "layer norm": (layer_norm_case, (5, 72), {}),
}


def run_case(name: str, bench: Bench, tolerance: float) -> None:
    case, sizes, options = CASES[name]
    bench.check(case(bench, *sizes, **options), tolerance)
