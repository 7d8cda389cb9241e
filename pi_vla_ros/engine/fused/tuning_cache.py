# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The tiles of an engine: found on this machine, else shipped for its GPU, else defaults for its capability.

What is found is on disk, one small JSON file per GPU, driver, kernel sources and number of robots. It is written by `bench --tune` and read by engines when they are set up; nothing is tuned while they run. The folder is
`$XDG_CACHE_HOME/pi_vla_ros/tuning` (`~/.cache/...`). What cannot be read is ignored with one warning: the shipped or
default tiles are right, too.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import triton

import pi_vla_ros.kernels
from pi_vla_ros import user_cache
from pi_vla_ros.engine.fused.tuning import DEFAULT, SHIPPED, Tuning, default_for


def tuning_for(device: torch.device, robots: int) -> Tuning:
    """Tiles for an engine of at most `robots` robots."""
    if device.type != "cuda":
        return DEFAULT
    major, minor = torch.cuda.get_device_capability(device)
    return chosen(Key.of(device), default_for(10 * major + minor), robots)


def chosen(key: Key, default: Tuning, robots: int) -> Tuning:
    """What was found for as many robots, or for the next smaller number; on this machine before shipped."""
    found = {n: t for (gpu, n), t in SHIPPED.items() if gpu == key.gpu} | key.stored()
    fitting = [n for n in found if n <= robots]
    return found[max(fitting)] if fitting else default


def folder() -> Path:
    return user_cache.folder("tuning")


@dataclass(frozen=True)
class Key:
    """What found tiles are good for."""

    gpu: str
    driver: str
    kernels: str  # hash of what is compiled, and by which Triton

    @classmethod
    def of(cls, device: torch.device) -> Key:
        return cls(torch.cuda.get_device_name(device), driver_version(), kernel_hash())

    def path(self, robots: int) -> Path:
        return folder() / f"{self._stem}-{robots}.json"

    def store(self, tuning: Tuning, robots: int) -> Path:
        """Write atomically: a reader sees the old file or the new one."""
        path = self.path(robots)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), "robots": robots, "tuning": asdict(tuning)}
        user_cache.write(path, f"{json.dumps(content, indent=1)}\n".encode())
        return path

    def stored(self) -> dict[int, Tuning]:
        """Number of robots -> tiles."""
        found = {}
        for path in folder().glob(f"{self._stem}-*.json"):
            try:
                content = json.loads(path.read_text())
                if any(content[name] != value for name, value in asdict(self).items()):
                    raise ValueError("it is for another GPU, driver or version")
                found[int(content["robots"])] = read_tuning(content["tuning"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                warnings.warn(
                    f"{path}: ignored, the tuned tiles in it cannot be used ({type(error).__name__}: {error}). "
                    "Remove the file, or run `bench --tune` again.",
                    stacklevel=2,
                )
        return found

    @property
    def _stem(self) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "_", f"{self.gpu} {self.driver} {self.kernels}")


def read_tuning(content: dict) -> Tuning:
    """The inverse of `asdict`; complains about what is missing, unknown or of another type."""
    default = Tuning()
    known = {f.name for f in fields(Tuning)}
    if set(content) != known:
        raise ValueError(f"unknown or missing: {', '.join(sorted(set(content) ^ known))}")
    return Tuning(**{name: _read(name, getattr(default, name), value) for name, value in content.items()})


def _read(name: str, default, value):
    if isinstance(default, bool) and isinstance(value, bool):
        return value
    sizes = isinstance(value, dict) and set(value) == set(vars(default))
    if not sizes or not all(type(v) is int and v > 0 for v in value.values()):
        raise ValueError(f"{name}: {value!r}")
    return type(default)(**value)


def kernel_hash() -> str:
    digest = hashlib.sha256(triton.__version__.encode())
    for path in sorted(Path(pi_vla_ros.kernels.__path__[0]).iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def driver_version() -> str:
    """Of NVIDIA's driver, "580.159.03"; from the library that comes with it, as nvidia-smi does."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    version = ctypes.create_string_buffer(80)
    failed = nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(version, len(version))
    return "unknown" if failed else version.value.decode()
