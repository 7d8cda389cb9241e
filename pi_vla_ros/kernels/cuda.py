# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Kernels in CUDA C++ for Hopper: compiled by NVRTC or found on disk at set-up, launched through the driver.

Triton makes almost all kernels here. What is written in CUDA needs what Triton has no words for: one kernel that lives
through the whole flow loop, loads multicast to a pair of programs, sums that stay in registers behind a product.
"""

from __future__ import annotations

import ctypes
import functools
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pi_vla_ros.kernels import nvrtc
from pi_vla_ros.kernels.code_cache import machine_code

HERE = Path(__file__).parent
SHARED = 232448  # bytes of shared memory that a program may have (sm_90)
_compilers = ThreadPoolExecutor(thread_name_prefix="nvrtc")


def available(device: torch.device) -> bool:
    """Whether these kernels run here: Hopper, and a PyTorch with NVRTC."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and _compiler()


@functools.cache
def _compiler() -> bool:
    if nvrtc.library() is None:
        warnings.warn(
            "CUDA's NVRTC was not found, so the kernels for Hopper are not used, which are the fastest: install the wheel "
            "nvidia-cuda-nvrtc of PyTorch's CUDA version",
            stacklevel=2,
        )
    return nvrtc.library() is not None


def mma(n: int, a: str = "shared", transposed: bool = False) -> str:
    """The wrapper of one wgmma: d[64, n] (+)= a[64, 16] · b[n, 16]ᵀ, a in shared memory or in four registers."""
    count, kind = n // 2, {"shared": "l", "regs": "r"}[a]
    outs = ",".join(f"%{i}" for i in range(count))
    more = 1 if a == "shared" else 4
    source = f"%{count}" if more == 1 else "{" + ",".join(f"%{count + i}" for i in range(4)) + "}"
    name = f"mma{n}" + ("_regs" if a == "regs" else "") + ("_transposed" if transposed else "")
    operand = "u64 a" if a == "shared" else "const u32 (&a)[4]"
    inputs = ", ".join(f'"{kind}"({x})' for x in (["a"] if more == 1 else [f"a[{i}]" for i in range(4)]))
    flags = f"p, 1, 1, {'0, ' if a == 'shared' else ''}{int(transposed)}"
    accumulators = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    return (
        f"__device__ __forceinline__ void {name}(float (&d)[{count}], {operand}, u64 b, int add) {{\n"
        f'  asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + more + 1}, 0;\\n"\n'
        f'    "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{outs}}}, {source}, %{count + more}, {flags}; }}"\n'
        f'    : {accumulators}\n    : {inputs}, "l"(b), "r"(add));\n}}\n'
    )


def text_of(name: str, folder: Path = HERE) -> str:
    """`name`.cu with the headers of this package that it includes: NVRTC opens no files."""
    text = (folder / f"{name}.cu").read_text()
    for found in reversed(list(re.finditer(r'^#include "(\w+\.cuh)"$', text, re.MULTILINE))):
        line = text.count("\n", 0, found.start()) + 2
        header = f'#line 1 "{found[1]}"\n{(HERE / found[1]).read_text()}#line {line} "{name}.cu"'
        text = text[: found.start()] + header + text[found.end() :]
    return text


def source_of(name: str, defines: dict[str, int], mmas: Sequence[str]) -> str:
    """The text that is compiled for `name`.cu."""
    head = "".join(f"#define {k} {v}\n" for k, v in defines.items())
    return head + (HERE / "hopper.cuh").read_text() + "".join(mmas) + text_of(name)


class Kernel:
    """One kernel, compiled in a thread; call it with (grid, threads, arguments). Tensors go as addresses, bytes as they are.

    Who calls it first waits until it is compiled, and is told if it does not compile (RuntimeError)."""

    def __init__(self, name: str, defines: dict[str, int], mmas: Sequence[str], shared: int = SHARED):
        self._name, self._shared = name, shared
        self._code = _compilers.submit(machine_code, source_of(name, defines, mmas), name)

    @functools.cached_property
    def _function(self) -> ctypes.c_void_p:
        """What the driver launches."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(module), self._code.result()))
        check(driver().cuModuleGetFunction(ctypes.byref(function), module, self._name.encode()))
        check(driver().cuFuncSetAttribute(function, 8, self._shared))  # most shared memory that a launch asks for
        return function

    def __call__(self, programs: int, threads: int, arguments: Sequence, chained: bool = False) -> None:
        """Enqueues a launch; `chained`: it may start while its predecessor runs (kernels/common.py)."""
        values = [_value(a) for a in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        attribute = _Attribute(id=6, value=int(chained))  # programmatic stream serialization
        config = _Config(programs, 1, 1, threads, 1, 1, self._shared, torch.cuda.current_stream().cuda_stream,
                         ctypes.pointer(attribute), 1)  # fmt: skip
        check(driver().cuLaunchKernelEx(ctypes.byref(config), self._function, places, None))

    def clusters(self, size: int, threads: int) -> int:
        """How many clusters of `size` programs this GPU holds at once: parts of the chip that make them up differ."""
        attribute, count = _Attribute(id=4), ctypes.c_int()  # cluster dimension
        for i, n in enumerate((size, 1, 1)):
            ctypes.c_uint.from_buffer(attribute, _Attribute.value.offset + 4 * i).value = n
        config = _Config(size, 1, 1, threads, 1, 1, self._shared, None, ctypes.pointer(attribute), 1)
        check(driver().cuOccupancyMaxActiveClusters(ctypes.byref(count), self._function, ctypes.byref(config)))
        return count.value


@functools.cache
def kernel(name: str, defines: tuple[tuple[str, int], ...], mmas: tuple[str, ...], shared: int = SHARED) -> Kernel:
    """Compiled once a process; returns at once."""
    return Kernel(name, dict(defines), mmas, shared)


def tensor_map(t: Tensor, rows: int) -> bytes:
    """How the copy engine finds tiles [rows, 64] of t [M, K] bf16; what lies outside t reads as 0."""
    space = ctypes.create_string_buffer(128 + 64)
    start = -ctypes.addressof(space) % 64
    place = ctypes.c_void_p(ctypes.addressof(space) + start)
    m, k = t.shape
    check(driver().cuTensorMapEncodeTiled(
        place, 9, 2, ctypes.c_void_p(t.data_ptr()), (ctypes.c_uint64 * 2)(k, m), (ctypes.c_uint64 * 1)(t.stride(0) * 2),
        (ctypes.c_uint32 * 2)(64, rows), (ctypes.c_uint32 * 2)(1, 1), 0, 3, 2, 0,
    ))  # bf16, two axes, ..., no interleave, 128-byte swizzle, whole L2 lines, zeros outside  # fmt: skip
    return space.raw[start : start + 128]


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class _Config(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("count", ctypes.c_uint),
    ]  # fmt: skip


def _value(a):
    if isinstance(a, Tensor):
        return ctypes.c_uint64(a.data_ptr())
    if a is None:
        return ctypes.c_uint64(0)
    if isinstance(a, bytes):
        return ctypes.create_string_buffer(a, len(a))
    return ctypes.c_int(a)


@functools.cache
def driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def check(result: int) -> None:
    if result:
        name = ctypes.c_char_p()
        driver().cuGetErrorName(result, ctypes.byref(name))
        raise RuntimeError(f"CUDA driver: {(name.value or b'unknown error').decode()}")
