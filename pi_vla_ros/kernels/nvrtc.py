# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ into a GPU's machine code by NVRTC, the compiler that comes with PyTorch. May be called from several threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
from pathlib import Path

import torch

ARCHITECTURE = "sm_90a"


@functools.cache
def library() -> ctypes.CDLL | None:
    """PyTorch's NVRTC, which is loaded already, or the one in NVIDIA's wheels beside it; None where there is none."""
    major = (torch.version.cuda or "13").partition(".")[0]
    for name in (f"libnvrtc.so.{major}", "libnvrtc.so"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    wheels = importlib.util.find_spec("nvidia")
    for folder in wheels.submodule_search_locations if wheels else ():
        for lib in (Path(folder, f"cu{major}", "lib"), Path(folder, "cuda_nvrtc", "lib")):
            with contextlib.suppress(OSError):
                for builtins in lib.glob(f"libnvrtc-builtins.so.{major}.*"):  # which NVRTC asks for by its name alone
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
                return ctypes.CDLL(str(lib / f"libnvrtc.so.{major}"))
    return None


def version() -> str:
    """ "13.0" """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def compiled(text: str, name: str) -> bytes:
    """The machine code (CUBIN) of `text`, which includes no files. Raises RuntimeError with what NVRTC says about it."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc, options = library(), (ctypes.c_char_p * 1)(f"--gpu-architecture={ARCHITECTURE}".encode())
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), f"{name}.cu".encode(), 0, None, None))
    try:
        if nvrtc.nvrtcCompileProgram(program, 1, options):
            _check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            _check(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC: {log.value.decode().strip() or f'{name}.cu does not compile'}")
        _check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        _check(nvrtc.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _check(result: int) -> None:
    if result:
        describe = library().nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {describe(result).decode()}")
