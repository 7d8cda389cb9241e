# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The search for tiles, with a bench whose times are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

import triton

from pi_vla_ros.engine.fused import autotune
from pi_vla_ros.engine.fused.autotune import STAGES, Bench, Search, candidates, descend, shallow
from pi_vla_ros.engine.fused.tuning import DEFAULT
from pi_vla_ros.model.geometry import PI05, tiny


class KnownTimes:
    """Every tile costs what `cost` says; some are too large for this GPU."""

    def __init__(self, cost, too_large=()):
        self._cost, self._too_large = cost, too_large
        self.vision, self.prefix, self.expert = (type("Stage", (), {})() for _ in range(3))

    def retune(self, tuning):
        self.tuning = tuning

    def capture(self, stage):
        if any(getattr(self.tuning, name) == tile for name, tile in self._too_large):
            raise RuntimeError("out of resource: shared memory")
        return sum(self._cost(name, getattr(self.tuning, name)) for name in candidates(1, False)[stage])


@pytest.fixture(autouse=True)
def times(monkeypatch):
    monkeypatch.setattr(autotune, "medians", lambda graphs, replays: graphs)


def search(robots: int = 1) -> Search:
    return Search(PI05, DEFAULT, 48, 3, robots)


def best_of(tiles, cost, name, without=()):
    return min((t for t in tiles if t not in without), key=lambda t: cost(name, t))


def cost(name, tile):
    """In no simple order, and never twice the same."""
    return 1.0 + (hash((len(name), *vars(tile).values())) % 9973) / 100


def test_the_best_tile_of_every_product_is_found():
    told = []
    found = descend(KnownTimes(cost), search(), told.append)
    for fields in candidates(1, False).values():
        for name, tiles in fields.items():
            assert getattr(found, name) == best_of([*tiles, getattr(DEFAULT, name)], cost, name), name
    assert replace(found, **{n: getattr(DEFAULT, n) for f in candidates(1, False).values() for n in f}) == DEFAULT
    assert len(told) > 50


def test_what_does_not_fit_is_told_and_left_out():
    tiles = candidates(1, False)["prefix"]["prefix_attention"]
    favourite = best_of(tiles, cost, "prefix_attention")
    told = []
    found = descend(KnownTimes(cost, [("prefix_attention", favourite)]), search(), told.append)
    wanted = best_of([*tiles, DEFAULT.prefix_attention], cost, "prefix_attention", [favourite])
    assert found.prefix_attention == wanted and any("out of resource" in line for line in told)


def test_a_gain_within_the_noise_is_none():
    assert descend(KnownTimes(lambda name, tile: 1 - 1e-6 * tile.bm), search(), lambda line: None) == DEFAULT


def test_what_cuda_does_is_not_searched(monkeypatch):
    assert set(candidates(4, True)["expert"]) == {"expert_qkv", "expert_out", "expert_up", "expert_down"}
    assert set(candidates(1, True)["prefix"]) == {"prefix_attention"}
    assert tuple(candidates(4, False)) == STAGES
    assert not candidates(4, True, True)["expert"] and candidates(4, False, True)["expert"]
    several = [Search(PI05, DEFAULT, 48, 3, robots) for robots in (1, 2, 5, 6)]
    monkeypatch.setattr(autotune, "available", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [any(stage == "expert" for stage, *_ in s.choices()) for s in several] == [True, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("robots", [1, 3])
def test_bench_runs_every_stage(robots):
    """On the CPU, in the interpreter."""
    if not triton.knobs.runtime.interpret:
        pytest.skip("needs Triton's interpreter: TRITON_INTERPRET=1")
    model = autotune.blank_model(shallow(tiny("pi05", chunk=5)), torch.device("cpu"), torch.float32)
    bench = Bench(model, DEFAULT, 16, cameras=1, robots=robots)
    for stage in STAGES:
        bench.launch(stage)
    assert bench.prefix.keys[:, :, :32].isfinite().all() and bench.prefix.keys[:, :, :32].abs().sum() > 0
