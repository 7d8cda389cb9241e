# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Machine code of the CUDA kernels, kept on disk: NVRTC takes seconds, at every start.

A file per text, compiler and architecture, in `$XDG_CACHE_HOME/pi_vla_ros/kernels`, as the text's hash says; its first
bytes are a checksum. It is run, so it must be the user's own: a folder that others may write to is not used. Whatever is
wrong with files or folder, the text is compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import warnings
from pathlib import Path

import torch

from pi_vla_ros import user_cache
from pi_vla_ros.kernels import nvrtc

KEPT = 256  # files; a model has about 15, another one with every change of a kernel
CHECKSUM = hashlib.sha256().digest_size


def machine_code(text: str, name: str) -> bytes:
    """nvrtc.compiled(text, name), from disk if it is there."""
    compiler = f"{nvrtc.version()} {torch.__version__} {nvrtc.ARCHITECTURE}"
    key = hashlib.sha256(f"{compiler}\0{text}".encode()).hexdigest()
    try:
        path = _folder() / f"{name}-{key[:32]}.cubin"
        code = _read(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        _warn(error)
        return nvrtc.compiled(text, name)
    if code is None:
        code = nvrtc.compiled(text, name)
        try:
            user_cache.write(path, hashlib.sha256(code).digest() + code)
            _remove_oldest(path.parent)
        except OSError as error:
            _warn(error)
    return code


def _folder() -> Path:
    """Raises OSError where it cannot be made, and where somebody else may write to it."""
    path = user_cache.folder("kernels")
    path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path}: must belong to this user, and nobody else may write to it (chmod 700)")
    return path


def _read(path: Path) -> bytes | None:
    """What was kept; None if nothing was, or not all of it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    code = content[CHECKSUM:]
    if hashlib.sha256(code).digest() != content[:CHECKSUM]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the oldest is what was not used for longest
    return code


def _remove_oldest(folder: Path) -> None:
    """All but the last `KEPT` files that were used."""
    used = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes, too
            used[path] = path.stat().st_mtime
    for path in sorted(used, key=used.get)[:-KEPT]:
        path.unlink(missing_ok=True)


def _warn(error: Exception) -> None:
    warnings.warn(f"compiled kernels are not kept on disk, each start compiles them again: {error}", stacklevel=2)
