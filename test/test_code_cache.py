# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' machine code on disk, with a compiler that writes down what it was asked."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from pathlib import Path

import pytest
import torch

from pi_vla_ros.kernels import code_cache, cuda, nvrtc
from pi_vla_ros.kernels.code_cache import CHECKSUM, machine_code


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pi_vla_ros" / "kernels"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Names that were compiled."""
    names = []

    def compiled(text: str, name: str) -> bytes:
        names.append(name)
        return b"code of " + text.encode()

    monkeypatch.setattr(nvrtc, "compiled", compiled)
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    return names


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_text_is_compiled_once(folder, asked, no_warnings):
    assert [machine_code("a\0\n", "k"), machine_code("a\0\n", "k")] == 2 * [b"code of a\0\n"]
    assert machine_code("b", "k") == b"code of b" and asked == ["k", "k"]
    assert len(list(folder.iterdir())) == 2  # nothing of the writing is left
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("other", [(nvrtc, "version", lambda: "13.1"), (nvrtc, "ARCHITECTURE", "sm_100a"),
                                   (torch, "__version__", "0.1")])  # fmt: skip
def test_another_compiler_or_architecture_finds_nothing(folder, asked, no_warnings, other, monkeypatch):
    machine_code("a", "k")
    monkeypatch.setattr(*other)
    machine_code("a", "k")
    assert asked == ["k", "k"] and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("spoilt", [
    lambda content: b"",
    lambda content: content[: CHECKSUM // 2],
    lambda content: content[:-1],  # a disk that was full
    lambda content: content[:-1] + b"?",
    lambda content: content + b"?",
    lambda content: bytes(len(content)),  # a power cut
])  # fmt: skip
def test_a_broken_file_is_compiled_anew_and_replaced(folder, asked, no_warnings, spoilt):
    machine_code("a", "k")
    (path,) = folder.iterdir()
    path.write_bytes(spoilt(path.read_bytes()))
    assert [machine_code("a", "k"), machine_code("a", "k")] == 2 * [b"code of a"] and asked == ["k", "k"]


def test_what_is_no_file_is_said_and_compiled(folder, asked):
    machine_code("a", "k")
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match=r"not kept on disk.*k-"):
        assert machine_code("a", "k") == b"code of a"
    assert path.is_dir() and asked == ["k", "k"]


def test_a_folder_that_others_may_write_to_is_not_used(folder, asked):
    machine_code("a", "k")
    folder.chmod(0o770)
    with pytest.warns(UserWarning, match="chmod 700"):
        assert machine_code("a", "k") == b"code of a"
    with pytest.warns(UserWarning, match="chmod 700"):
        machine_code("b", "k")
    assert asked == ["k", "k", "k"] and len(list(folder.iterdir())) == 1


def test_somebody_elses_folder_is_not_used(folder, asked, monkeypatch):
    machine_code("a", "k")
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.warns(UserWarning, match="must belong to this user"):
        machine_code("a", "k")
    assert asked == ["k", "k"]


@pytest.mark.parametrize("cache", ["", "file"])
def test_without_a_place_for_files_it_still_compiles(cache, tmp_path, asked, monkeypatch):
    """No home, or a file where the folder would be: also root may not write there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", cache and str(tmp_path / cache))

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.warns(UserWarning, match="not kept on disk"):
        assert machine_code("a", "k") == b"code of a"
    assert asked == ["k"]


def test_a_full_disk_stops_nothing(folder, asked, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert machine_code("a", "k") == b"code of a"
    assert list(folder.iterdir()) == []


def test_what_was_not_used_for_longest_goes(folder, asked, monkeypatch):
    monkeypatch.setattr(code_cache, "KEPT", 3)
    for day, text in enumerate("abc"):
        before = set(folder.glob("*"))
        machine_code(text, "k")
        (path,) = set(folder.glob("*")) - before
        os.utime(path, (day, day))
    machine_code("a", "k")  # now it is b that is oldest
    machine_code("d", "k")
    assert len(list(folder.iterdir())) == 3 and asked == ["k"] * 4
    for text in "acd":
        machine_code(text, "k")
    assert asked == ["k"] * 4
    machine_code("b", "k")
    assert asked == ["k"] * 5


def test_a_text_that_does_not_compile_leaves_nothing(folder, asked, monkeypatch):
    def refuses(text: str, name: str) -> bytes:
        raise RuntimeError("NVRTC: k.cu(1): error")

    monkeypatch.setattr(nvrtc, "compiled", refuses)
    with pytest.raises(RuntimeError, match="error"):
        machine_code("a", "k")
    assert list(folder.iterdir()) == []


def _start(barrier, answers) -> None:
    def compiled(text: str, name: str) -> bytes:
        barrier.wait(timeout=60)  # both have found nothing
        return 1000 * text.encode()

    nvrtc.compiled = compiled
    answers.put(machine_code("a", "k"))


def test_two_processes_that_start_at_once(folder, asked, no_warnings):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=_start, args=(barrier, answers)) for _ in range(2)]
    for process in both:
        process.start()
    assert [answers.get(timeout=60) for _ in both] == 2 * [1000 * b"a"]
    for process in both:
        process.join(timeout=60)
    assert len(list(folder.iterdir())) == 1
    assert machine_code("a", "k") == 1000 * b"a" and asked == []


def test_a_hopper_without_the_compiler_is_told_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    cuda._compiler.cache_clear()
    try:
        with pytest.warns(UserWarning, match="install the wheel nvidia-cuda-nvrtc"):
            assert not cuda.available(torch.device("cuda"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not cuda.available(torch.device("cuda")) and not cuda.available(torch.device("cpu"))
    finally:
        cuda._compiler.cache_clear()
