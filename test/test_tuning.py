# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which tiles an engine gets: from this machine's cache, else shipped, else its capability's defaults."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace

import pytest
import torch

pytest.importorskip("triton")

from pi_vla_ros.engine.fused import tuning_cache
from pi_vla_ros.engine.fused.tuning import DEFAULT, SHIPPED, SMALL, AttentionTile, default_for
from pi_vla_ros.engine.fused.tuning_cache import Key, chosen, kernel_hash, tuning_for
from pi_vla_ros.kernels.linear import Tile

FOUND = replace(DEFAULT, projector=Tile(64, 256, 32, 2, 4), prefix_attention=AttentionTile(32, 16, 3, 8), ahead=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pi_vla_ros" / "tuning"


@pytest.fixture
def key():
    return Key("NVIDIA Test 9000", "580.1", "abc")


def test_what_is_stored_is_what_is_found(key, cache):
    path = key.store(FOUND, 1)
    assert path.parent == cache and key.stored() == {1: FOUND}
    assert [p.name for p in cache.iterdir()] == [path.name]  # nothing of the writing is left


def test_a_second_search_replaces_the_first(key):
    key.store(DEFAULT, 1)
    key.store(FOUND, 1)
    assert key.stored() == {1: FOUND}


@pytest.mark.parametrize("other", [{"gpu": "NVIDIA Test 900"}, {"driver": "580.2"}, {"kernels": "abd"}])
def test_another_gpu_driver_or_kernel_finds_nothing(key, other):
    key.store(FOUND, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(key, **other).stored() == {}


def test_the_next_smaller_number_of_robots_counts(key):
    key.store(FOUND, 2)
    assert chosen(key, DEFAULT, robots=1) == DEFAULT
    assert chosen(key, DEFAULT, robots=2) == chosen(key, DEFAULT, robots=3) == FOUND


def test_shipped_tiles_give_way_to_what_was_found_here():
    key = Key("NVIDIA H200", "580.1", "abc")
    assert chosen(key, DEFAULT, robots=1) == SHIPPED["NVIDIA H200", 1] != DEFAULT
    key.store(FOUND, 1)
    assert chosen(key, DEFAULT, robots=1) == FOUND


def broken(content: dict, **changes) -> str:
    return json.dumps(content | {"tuning": content["tuning"] | changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: "",
        lambda c: json.dumps(c)[:-40],  # a disk that was full
        lambda c: "[]",
        lambda c: json.dumps(c | {"robots": "many"}),
        lambda c: json.dumps(c | {"driver": "535"}),  # renamed by hand
        lambda c: broken(c, unknown=1),
        lambda c: broken(c, projector={"bm": 64}),
        lambda c: broken(c, projector=c["tuning"]["projector"] | {"bn": -64}),
        lambda c: broken(c, projector=c["tuning"]["projector"] | {"bn": 64.5}),
        lambda c: broken(c, resident=1),
    ],
)
def test_a_spoilt_file_is_ignored_with_one_warning(key, spoil):
    path = key.store(FOUND, 1)
    path.write_text(spoil(json.loads(path.read_text())))
    with pytest.warns(UserWarning, match=r"bench --tune") as told:
        assert chosen(key, DEFAULT, robots=1) == DEFAULT
    assert len(told) == 1 and str(path) in str(told[0].message)


def test_unreadable_folder_is_no_error(key, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert key.stored() == {}


def test_small_gpus_get_small_tiles():
    assert [default_for(c) for c in (80, 90, 100, 110)] == [DEFAULT] * 4
    assert [default_for(c) for c in (86, 89, 120, 75, 999)] == [SMALL] * 5


def test_hash_changes_with_the_sources(tmp_path, monkeypatch):
    before = kernel_hash()
    assert before == kernel_hash() and len(before) == 12
    (tmp_path / "linear.py").write_text("pass")
    monkeypatch.setattr(tuning_cache.pi_vla_ros.kernels, "__path__", [str(tmp_path)])
    changed = kernel_hash()
    (tmp_path / "linear.py").write_text("pass ")
    assert len({before, changed, kernel_hash()}) == 3


def test_the_cpu_has_no_tiles_to_choose():
    assert tuning_for(torch.device("cpu"), 1) == DEFAULT


def test_file_says_what_it_is_for(key):
    content = json.loads(key.store(FOUND, 3).read_text())
    assert {k: content[k] for k in ("gpu", "driver", "kernels", "robots")} == {**asdict(key), "robots": 3}
