# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' text, compiled for the CPU (cuda_on_cpu/), against PyTorch: sizes around tiles' edges, poisoned
memory, several of the orders in which a GPU may run them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

import cuda_on_cpu
from cuda_on_cpu import Kernel, Wrong, with_cpu

from pi_vla_ros.engine.fused import expert_stage
from pi_vla_ros.engine.fused.autotune import blank_model
from pi_vla_ros.engine.fused.expert_stage import ExpertStage
from pi_vla_ros.engine.fused.tuning import default_for
from pi_vla_ros.kernels.cuda import mma
from pi_vla_ros.kernels.expert_attention import expert_attention
from pi_vla_ros.kernels.flow_loop import tiles
from pi_vla_ros.kernels.hopper_attention import chunk_attention, queries_map
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
from pi_vla_ros.kernels.qkv import paired, rope_tables
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import GEMMA_300M, GemmaGeometry, tiny
from pi_vla_ros.model.pi import Prefix
from pi_vla_ros.model.rtc import Committed, Guidance

if not cuda_on_cpu.COMPILER:
    pytest.skip("needs g++ to compile the kernels for the CPU", allow_module_level=True)

WIDTH, SPACE, CPU, NAN = 512, 1100, torch.device("cpu"), float("nan")
slow = [pytest.mark.slow, pytest.mark.timeout(600)]


def random(*shape: int, size: float = 1.0) -> torch.Tensor:
    return (size * torch.randn(shape)).bfloat16()


def poisoned(*shape: int) -> torch.Tensor:
    return torch.full(shape, NAN, dtype=torch.bfloat16)


def rows(m: int, k: int) -> torch.Tensor:
    """[SPACE, k], NaN behind row m: what stands there must not matter."""
    x = poisoned(SPACE, k)
    x[:m] = random(m, k, size=2)
    return x


def squares(x: torch.Tensor, parts: int) -> Stats:
    buffer = torch.full((parts, SPACE), NAN)
    buffer[:, : len(x)] = x.float().unflatten(1, (parts, -1)).square().sum(-1).T
    return Stats(buffer, x.shape[1])


def normed(x: torch.Tensor) -> torch.Tensor:
    return x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)


def close(got: torch.Tensor, want: torch.Tensor, limit: float = 4e-3) -> None:
    error = ((got.float() - want).norm() / want.norm()).item()
    assert error <= limit, error


def in_chunks(t: torch.Tensor) -> torch.Tensor:
    """[64 · chunks, 256] -> [chunks, 64 · 256], as kernels/flow_loop.py says."""
    return tiles(t.reshape(-1, 64, 4, 64).transpose(1, 2).reshape(-1, 64), 64).view(-1, 64 * 256)


def positions(chunks: torch.Tensor) -> torch.Tensor:
    """The way back: the tiles' swizzle is its own inverse."""
    return tiles(chunks.view(-1, 64), 64).view(-1, 4, 64, 64).transpose(1, 2).reshape(-1, 256)


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


# --- the prefix stack's products ---------------------------------------------------------------------------------

ROWS = [(1, 0), (64, 1), (65, 2), (130, 3), pytest.param(816, 4, marks=slow)]  # and the order's seed


@pytest.mark.parametrize(("m", "seed"), ROWS)
def test_geglu(monkeypatch, m, seed):
    with_cpu(monkeypatch, seed)
    x = rows(m, WIDTH)
    gate, up = (random(1024, WIDTH, size=WIDTH**-0.5) for _ in range(2))
    out = poisoned(m + 1, 1024)
    geglu_linear(Rows.of(x), m, Matrix.of(packed_pair(gate, up), 256), out, squares(x[:m], 4), pdl=False)
    h = normed(x[:m])
    close(out[:m], torch.nn.functional.gelu(h @ gate.float().T, approximate="tanh") * (h @ up.float().T))
    assert out[m].isnan().all()


@pytest.mark.parametrize(("m", "seed"), ROWS)
def test_residual(monkeypatch, m, seed):
    with_cpu(monkeypatch, seed)
    a, w, x = rows(m, 1024), random(WIDTH, 1024, size=1 / 32), rows(m, WIDTH)
    want = x[:m].float() + a[:m].float() @ w.float().T
    stats = Stats(torch.full((2 * WIDTH // 128, SPACE), NAN), WIDTH)
    residual_linear(Rows.of(a), m, Matrix.of(packed(w), 128), x, stats, pdl=False)
    close(x[:m], want)
    close(stats.buffer[:, :m].sum(0), want.square().sum(-1), 1e-4)
    assert x[m:].isnan().all()


@pytest.mark.parametrize("chunked", [True, pytest.param(False, marks=slow)])
@pytest.mark.parametrize(("m", "seed"), [*ROWS[1:2], *ROWS[3:]])
@pytest.mark.parametrize("width", [160, pytest.param(256, marks=slow)])
def test_qkv(monkeypatch, width, m, seed, chunked):
    with_cpu(monkeypatch, seed)
    x, w = rows(m, WIDTH), random(2560, WIDTH, size=WIDTH**-0.5)
    cos, sin = rope_tables(SPACE, 256, CPU)
    tokens = m if chunked else m // 2
    q, shape = poisoned(m, 2048), (17, 64 * 256) if chunked else (2, 600, 256)
    keys, values = poisoned(*shape), poisoned(*shape)
    qkv_linear(Rows.of(x), m, Matrix.of(packed(w), width), squares(x[:m], 4), (cos, sin), q, keys, values, tokens,
               chunked=chunked, pdl=False)  # fmt: skip
    place = torch.arange(m) % tokens
    y = (normed(x[:m]) @ w.float().T).unflatten(1, (10, 256))
    c, s = cos[place][:, None], sin[place][:, None]
    turned = torch.stack([y[..., 0::2] * c - y[..., 1::2] * s, y[..., 1::2] * c + y[..., 0::2] * s], -1).flatten(-2)
    close(q, turned[:, :8].flatten(1))
    for got, want in ((keys, turned[:, 8]), (values, y[:, 9])):
        if chunked:
            got = positions(got)
            close(got[:m], want)
            assert (got[m : -(-m // 64) * 64] == 0).all()  # an attention's weight of 0 times anything but NaN
        else:
            close(got[:, :tokens].flatten(0, 1), want)
            assert got[:, tokens:].isnan().all()


EDGES = [(63, 130, 6), (128, 64, 5), (129, 100, 2), (449, 200, 3), (515, 64, 7), (968, 1008, 3), (968, 328, 8)]


@pytest.mark.parametrize(
    ("length", "count", "seed"),
    [(1, 16, 0), (64, 200, 1), (65, 64, 4), (200, 130, 2), *(pytest.param(*e, marks=slow) for e in EDGES)],
)
def test_attention(monkeypatch, length, count, seed):
    with_cpu(monkeypatch, seed)
    q, plain = random(count, 256, size=3), random(2, 17 * 64, 256)
    plain[:, length : -(-length // 64) * 64] = 0
    plain[:, -(-length // 64) * 64 :] = NAN
    keys, values = (in_chunks(t) for t in plain)
    out = poisoned(count + 1, 256)
    lengths = torch.tensor([length], dtype=torch.int32)
    ready = torch.tensor([3, 7], dtype=torch.int32)
    chunk_attention(queries_map(q), count, keys, values, out, lengths, ready, pdl=False)
    k, v = plain[:, :length].float()
    close(out[:count], torch.softmax(q.float() @ k.T / 16, -1) @ v)
    assert out[count].isnan().all()
    assert ready.tolist() == [4, 7]  # once a launch


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_attention_in_every_order(monkeypatch):
    q, (keys, values) = random(130, 256, size=3), (in_chunks(t) for t in random(2, 576, 256))
    lengths, runs = torch.tensor([570], dtype=torch.int32), []
    for seed in range(12):
        with_cpu(monkeypatch, seed)
        runs.append(poisoned(130, 256))
        chunk_attention(queries_map(q), 130, keys, values, runs[-1], lengths, pdl=False)
    assert all(torch.equal(r, runs[0]) for r in runs)


def caches(robots: int, key_rows: int, lengths: list[int]) -> torch.Tensor:
    """Keys and values [2, robots, key_rows, 256], NaN behind each robot's length."""
    plain = random(2, robots, key_rows, 256)
    for robot, length in enumerate(lengths):
        plain[:, robot, length:] = NAN
    return plain


EXPERTS = [
    ([0, 190], 10, False, 1), ([968, 17, 500, 783], 50, False, 3), ([788, 1, 960], 51, True, 4),
    ([2036, 255], 64, False, 5), ([63, 64, 448, 449, 511], 10, True, 7), ([1224], 63, True, 8),
]  # fmt: skip


@pytest.mark.parametrize(
    ("starts", "tokens", "state", "seed"), [([570, 0], 9, True, 2), *(pytest.param(*e, marks=slow) for e in EXPERTS)]
)
def test_expert_attention(monkeypatch, starts, tokens, state, seed):
    with_cpu(monkeypatch, seed)
    robots, rows = len(starts), tokens * 8
    q = random(robots, rows, 256, size=3)
    keys, values = caches(robots, max(starts) + tokens + 5, [s + tokens for s in starts])
    out = poisoned(robots + 1, rows, 256)
    expert_attention(q, keys, values, out, torch.tensor(starts, dtype=torch.int32), state=state, pdl=False)
    token = torch.arange(rows)[:, None] // 8
    for robot, start in enumerate(starts):
        n = start + tokens
        seen = (token > 0) | (torch.arange(n) <= start) | (not state)
        score = (q[robot].float() @ keys[robot, :n].float().T / 16).masked_fill(~seen, -torch.inf)
        close(out[robot], torch.softmax(score, -1) @ values[robot, :n].float())
    assert out[-1].isnan().all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_expert_attention_in_every_order(monkeypatch):
    starts, tokens = [570, 250], 20
    q, (keys, values) = random(2, 160, 256, size=3), caches(2, 640, [s + tokens for s in starts])
    runs = []
    for seed in [*range(8), *range(100, 106)]:
        with_cpu(monkeypatch, seed)
        runs.append(poisoned(2, 160, 256))
        expert_attention(q, keys, values, runs[-1], torch.tensor(starts, dtype=torch.int32), state=True, pdl=False)
    assert not runs[0].isnan().any() and all(torch.equal(r, runs[0]) for r in runs)


# --- the flow loop -----------------------------------------------------------------------------------------------


class Flow:
    """An expert of the published sizes with few layers, keys and values at random, and what PyTorch makes of them."""

    def __init__(self, monkeypatch, name: str, chunk: int, length: int, steps: int, layers: int = 1, rtc="off"):
        self._steps, self._length = steps, length
        language = GemmaGeometry(width=64, depth=layers, mlp=64, heads=8, head_dim=256)
        g = replace(tiny(name), language=language, expert=replace(GEMMA_300M, depth=layers), chunk=chunk)
        self._model = blank_model(g, CPU, torch.bfloat16)
        exact = copy.deepcopy(self._model).float()
        prefix = random(2, layers, length, 256)
        self._rows = length + g.suffix
        space = -(-self._rows // 64) * 64
        self._prefix = [poisoned(layers, 1, space, 256) for _ in range(2)]  # behind the prefix anything may stand
        for to, t, order in zip(self._prefix, prefix, (True, False), strict=True):
            to[:, 0, :length] = paired(t.flatten(0, 1).T, 256).T.view_as(t) if order else t
            to.copy_(in_chunks(to.view(-1, 256)).view_as(to))
        self._noise = torch.randn(1, chunk, 32)
        self._state = torch.randn(1, 32) if name == "pi0" else None
        self._kind, self._rtc, target = rtc, None, torch.randn(1, chunk, 32)
        if rtc == "guided":
            self._rtc = Guidance(target, torch.rand(1, chunk), torch.tensor([2.0]))
        elif rtc == "trained":
            self._rtc = Committed(target, torch.tensor([chunk // 3], dtype=torch.int32))
        self._rope = rope_tables(space, 256, CPU)
        keys, values = ([layer[None, None] for layer in t.float()] for t in prefix)
        valid = torch.ones(1, length, dtype=torch.bool)
        self.want = sample(exact, Prefix(keys, values, valid), self._noise, self._state, steps, self._rtc)[0]
        monkeypatch.setattr(expert_stage, "fits", lambda *_: True)

    def run(self, ahead: int = 0) -> torch.Tensor:
        """ahead: layers of the first step that flow_ahead does."""
        self.stage = ExpertStage(copy.deepcopy(self._model), 1, self._rows, self._steps, torch.bfloat16,
                                 default_for(90), False, self._rope, self._kind)  # fmt: skip
        x, lengths = self._noise[0].clone(), torch.tensor([self._length], dtype=torch.int32)
        keys, values = (t.clone() for t in self._prefix)
        if ahead:
            self.stage.begin(ahead).fill_(ahead)  # the prefix is there
            self.stage.ahead(ahead, x, lengths, keys, values, self._state, self._rtc)
        self.stage.launch(x, 1, self._length, lengths, keys, values, self._rope, self._state, self._rtc, ahead)
        return x


@pytest.mark.parametrize(
    ("name", "chunk", "length", "steps", "layers", "rtc", "seed"),
    [
        ("pi05", 10, 70, 1, 1, "off", 1),
        pytest.param("pi0", 10, 70, 1, 1, "off", 1, marks=slow),
        pytest.param("pi05", 50, 968, 2, 1, "guided", 2, marks=slow),
        pytest.param("pi05", 10, 70, 2, 1, "trained", 1, marks=slow),
        pytest.param("pi05", 50, 968, 2, 2, "trained", 9, marks=slow),
        pytest.param("pi05", 63, 65, 2, 1, "trained", 10, marks=slow),
        pytest.param("pi0", 50, 1, 2, 1, "guided", 3, marks=slow),
        pytest.param("pi05", 63, 65, 2, 2, "off", 4, marks=slow),  # more than 56 tokens: another build
        pytest.param("pi0", 63, 1088, 1, 2, "off", 5, marks=slow),  # a second round of chunks
        pytest.param("pi0", 50, 2100, 1, 1, "off", 8, marks=slow),  # a third
    ],
)
@torch.inference_mode()
def test_flow_loop(monkeypatch, name, chunk, length, steps, layers, rtc, seed):
    with_cpu(monkeypatch, seed)
    flow = Flow(monkeypatch, name, chunk, length, steps, layers, rtc)
    close(flow.run(), flow.want, 8e-3)
    assert flow.stage.step_ms() == pytest.approx([1e-3] * steps)  # this machine's clock: a microsecond each look


@pytest.mark.parametrize(
    ("name", "chunk", "length", "steps", "layers", "ahead", "rtc", "seed"),
    [
        ("pi05", 10, 70, 1, 2, 1, "off", 2),
        pytest.param("pi0", 10, 70, 2, 2, 1, "off", 3, marks=slow),
        pytest.param("pi05", 50, 968, 2, 3, 2, "trained", 4, marks=slow),
        pytest.param("pi0", 50, 788, 2, 3, 2, "guided", 5, marks=slow),
        pytest.param("pi05", 63, 65, 1, 3, 1, "trained", 6, marks=slow),
        pytest.param("pi0", 63, 1088, 1, 3, 2, "off", 7, marks=slow),
    ],
)
@torch.inference_mode()
def test_first_layers_ahead(monkeypatch, name, chunk, length, steps, layers, ahead, rtc, seed):
    """The same actions, if flow_ahead does the first step's first layers and the flow loop goes on from there."""
    with_cpu(monkeypatch, seed)
    flow = Flow(monkeypatch, name, chunk, length, steps, layers, rtc)
    close(flow.run(ahead), flow.want, 8e-3)
    assert flow.stage.step_ms() == pytest.approx([1e-3] * steps)
    counted, n = flow.stage._resident._counters.view(-1, 32)[:, 0].tolist(), steps * layers
    turns = chunk * steps, 120 * steps * (name == "pi0")
    assert counted[:17] == [turns[0], *[120 * n] * 3, turns[1], *[8 * n] * 8, *[30 * n] * 4]  # as without


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "ahead"), [("pi05", 0), ("pi0", 0), ("pi05", 1), ("pi0", 1)])
@torch.inference_mode()
def test_flow_loop_in_every_order(monkeypatch, name, ahead):
    """Whoever comes first, and with one slow program in each cluster (seeds from 100 on): the same bits."""
    flow, runs = Flow(monkeypatch, name, 10, 600, 2, 2), []
    for seed in (*range(4), 100, 103):
        with_cpu(monkeypatch, seed)
        runs.append(flow.run(ahead))
    assert all(torch.equal(r, runs[0]) for r in runs)


# --- what a kernel must not do is noticed ------------------------------------------------------------------------

WRONG = {  # what is done -> what is said
    "if (first) bar_wait(bar, 1);": r"deadlock\n  wrong.cu:15 waits for the barrier at 0x2000, parity 1 .*programs 0 1",
    "if (first) __syncthreads();": "deadlock\n.*waits for others to meet",
    "if (first) { bar_expect(bar, 16); copy_in(tile, from, 16, bar); copy_in(tile, from, 16, bar); }": "under way",
    "if (first) { bar_expect(bar, 16); copy_in(tile, from, 16, bar); }": "ends while copies",
    "if (first) { bar_expect(bar, 16); copy_in(tile, to, 16, bar); to[0] = 0; bar_wait(bar, 1); }": "changes under way",
    "if (first) copy_in(tile + 8, from, 16, bar);": "16 bytes",
    "if (first) { bar_expect(bar, 16); bar_arrive(bar); }": "program 0, thread 0: wrong.cu:21: more arrivals",
    "if (first) bar_arrive(bar + 8);": "no barrier was initialised",
    "if (first) to[1ll << 40] = 0;": "nobody's memory",
    "if (first) raw[232448] = 0;": "nobody's memory",
    "if (first) { mma_begin(); mma32(d, b, b, 0); mma_commit(); mma_wait<0>(); }": "commit different products",
    "mma_begin(); mma32(d, b, b + (threadIdx.x & 1), 0); mma_commit(); mma_wait<0>();": "different operands",
    "mma32(d, b, b, 0);": "without a fence",
    "if (!cluster_rank()) return; __syncthreads(); __syncthreads(); bar_arrive_in(address_in(bar, 0));": "has ended",
}  # fmt: skip
TEXT = """extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128, 1)
wrong(const char *from, float *to, int early_look, int early_product, int which) {
  extern __shared__ char raw[];
  const u32 tile = shared(raw), bar = tile + 8192;
  const u64 b = tile_at(tile);
  const bool first = threadIdx.x == 0;
  float d[16];
  if (first) { bar_init(bar, 1); bar_init_done(); }
  cluster_meet();
  if (first) bar_expect(bar, 8192);  // each program loads half of the tile for both
  if (first) copy_in_all(tile + cluster_rank() * 4096, from + cluster_rank() * 4096, 4096, bar, 3);
  if (!early_product) bar_wait(bar, 0);
  switch (which) {
    case -1: break;
%s
  }
  mma_begin();
  for (int k = 0; k < 4; k++) mma32(d, b + 2 * k, b + 2 * k, k);
  mma_commit();
  if (early_look) for (int i = 0; i < 16; i++) to[threadIdx.x * 16 + i] = d[i];
  mma_wait<0>();
  if (!early_look) for (int i = 0; i < 16; i++) to[threadIdx.x * 16 + i] = d[i];
  if (early_product) bar_wait(bar, 0);
  cluster_meet();
}
"""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    cases = "\n".join(f"    case {i}: {{ {done} }} break;" for i, done in enumerate(WRONG))
    (folder / "wrong.cu").write_text(TEXT % cases)

    def run(early_look=0, early_product=0, which=-1) -> torch.Tensor:
        out = torch.full((128, 16), 7.0)
        kernel = Kernel("wrong", {}, (mma(32),), folder=folder)
        kernel(2, 128, [torch.ones(64, 64, dtype=torch.bfloat16), out, early_look, early_product, which])
        return out

    return run


def test_a_right_kernel(wrong):
    assert (wrong() == 64).all()


def test_too_early_is_nan(wrong):
    assert wrong(early_look=1).isnan().all()
    assert wrong(early_product=1).isnan().any()


@pytest.mark.parametrize(("done", "said"), WRONG.items())
def test_what_is_wrong_is_said(wrong, done, said):
    with pytest.raises(Wrong, match=said):
        wrong(which=[*WRONG].index(done))
    assert (wrong() == 64).all()  # and nothing is left of it
