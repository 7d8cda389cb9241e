# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels on the CPU: the text of a .cu, compiled by g++ (see README.md).

with_cpu(monkeypatch, seed=3)        # from here on, FlowLoop and the modules of the other kernels run on CPU tensors
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from pi_vla_ros.kernels import (
    cuda,
    expert_attention,
    expert_linear,
    flow_ahead,
    flow_loop,
    hopper_attention,
    hopper_columns,
    hopper_linear,
    image_attention,
    vision_linear,
)

# all whose kernels are in CUDA
MODULES = (
    expert_attention, expert_linear, flow_ahead, flow_loop, hopper_attention, hopper_columns, hopper_linear,
    image_attention, vision_linear,
)  # fmt: skip
HERE, KERNELS = Path(__file__).parent, Path(cuda.__file__).parent
COMPILER = shutil.which("g++")
FUNCTION = re.compile(r"^(?:template <[^>]*> )?__device__ __forceinline__ ", re.MULTILINE)
WRAPPER = re.compile(
    r"__device__ __forceinline__ "
    r"(void mma\w+\(float \(&d\)\[(\d+)\], (u64 a|const u32 \(&a\)\[4\]), u64 b, int add\)) \{\n"
    r'.*?"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.bf16\.bf16 .*?, p, 1, 1, (0, )?([01]); \}"',
    re.DOTALL,
)


class Wrong(RuntimeError):
    """What a kernel must not do, and where; or who waits for what, when nobody can go on."""


def without_ptx(text: str) -> str:
    """`text` without its functions in assembly (hopper.h has others of the same names); lines stay in place."""
    at = 0
    while found := FUNCTION.search(text, at):
        at, depth = text.index("{", found.start()) + 1, 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        function = text[found.start() : at]
        if re.search(r"\basm\b", function):
            text = text[: found.start()] + "\n" * function.count("\n") + text[at:]
            at = found.start()
    return text


def multiplying(wrapper: str) -> str:
    """The same wrapper of a wgmma (kernels/cuda.py: mma), for the CPU."""
    found = WRAPPER.match(wrapper)
    if not found:
        raise ValueError(f"not a wgmma that the CPU knows:\n{wrapper[:300]}")
    signature, count, a, n, from_shared, transposed = found.groups()
    if int(n) != 2 * int(count) or (a == "u64 a") != bool(from_shared):
        raise ValueError(f"a wgmma whose operands do not fit its shape:\n{wrapper[:300]}")
    given = "nullptr, a" if from_shared else "a, 0"
    return f"inline {signature} {{ machine::multiply<{n}, {transposed}>(d, {given}, b, add); }}\n"


def source_of(name: str, defines: dict[str, int], mmas: Sequence[str], folder: Path) -> str:
    """What g++ compiles; `folder` holds `name`.cu."""
    text = re.sub(r"extern __shared__ .*?char raw\[\];", "char *raw = me->program->memory;", cuda.text_of(name, folder))
    return "".join([
        *(f'#include "{HERE / header}"\n' for header in ("machine.h", "hopper.h")),
        *(f"#define {k} {v}\n" for k, v in defines.items()),
        '#line 1 "hopper.cuh"\n', without_ptx((KERNELS / "hopper.cuh").read_text()),
        *(multiplying(m) for m in mmas),
        f'#line 1 "{name}.cu"\n', without_ptx(text),
        '\nextern "C" const char *launch(void **values, u32 programs, u32 threads, u32 cluster, u32 seed) {\n'
        f"  return machine::launch({name}, values, programs, threads, cluster, seed);\n}}\n",
    ])  # fmt: skip


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="cuda_on_cpu_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _library(text: str) -> ctypes.CDLL:
    source = _folder() / f"{abs(hash(text)):x}.cpp"
    source.write_text(text)
    flags = [
        "-std=c++20",
        "-O2",
        "-ftree-vectorize",
        "-march=native",
        "-fno-strict-aliasing",
        "-w",
        "-Wno-narrowing",
        "-U_FORTIFY_SOURCE",
    ]
    built = subprocess.run(
        [COMPILER, *flags, "-shared", "-fPIC", "-o", source.with_suffix(".so"), source], capture_output=True, text=True
    )
    if built.returncode:
        raise Wrong(f"g++ does not understand the kernel:\n{built.stderr[:4000]}")
    library = ctypes.CDLL(str(source.with_suffix(".so")))
    library.launch.restype = ctypes.c_char_p
    return library


class Kernel:
    """kernels/cuda.py's Kernel for CPU tensors. `seed`: which of the orders that a GPU may take; 0 is the plainest."""

    def __init__(self, name: str, defines: dict[str, int], mmas: Sequence[str], seed: int = 0,
                 folder: Path = KERNELS):  # fmt: skip
        text = source_of(name, defines, mmas, folder)
        dims = re.search(r"__cluster_dims__\((\w+)", text[text.index(f'#line 1 "{name}.cu"') :])
        self._cluster = int(defines.get(dims[1], dims[1])) if dims else 1
        self._library, self._seed = _library(text), seed

    def __call__(self, programs: int, threads: int, arguments: Sequence, chained: bool = False) -> None:
        values = [cuda._value(a) for a in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        wrong = self._library.launch(places, programs, threads, self._cluster, self._seed)
        if wrong:
            raise Wrong(wrong.decode())


def tensor_map(t: Tensor, rows: int) -> bytes:
    """kernels/cuda.py's tensor_map, as machine.h reads it."""
    assert t.element_size() == 2 and t.stride(1) == 1 and t.stride(0) % 8 == 0 and t.data_ptr() % 16 == 0
    return struct.pack("<5q", t.data_ptr(), *t.shape, t.stride(0) * 2, rows).ljust(128, b"\0")


def with_cpu(monkeypatch, seed: int = 0) -> None:
    """The kernels' Python modules launch on the CPU until the test ends."""

    def kernel(name: str, defines: tuple, mmas: tuple, shared: int = cuda.SHARED) -> Callable:
        return Kernel(name, dict(defines), mmas, seed)

    for module in MODULES:
        monkeypatch.setattr(module, "kernel", kernel)
        if hasattr(module, "tensor_map"):
            monkeypatch.setattr(module, "tensor_map", tensor_map)
