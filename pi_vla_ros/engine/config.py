# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How an engine is set up: which device, which precision, which runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class DeviceConfig:
    """Where the model runs and in what precision.

    target:       "cpu" runs the PyTorch reference; "cuda" runs on the GPU.
    index:        which GPU.
    params_dtype: dtype of the weights; heads, norms and time path stay in fp32 whatever it is.
    cpu_threads:  threads of one operation on the CPU; 0 leaves PyTorch's choice. One is best for a tiny model.
    """

    target: Literal["cpu", "cuda"] = "cpu"
    index: int = 0
    params_dtype: torch.dtype = torch.float32
    cpu_threads: int = 0

    def __post_init__(self):
        if self.target not in ("cpu", "cuda"):
            raise ValueError(f"DeviceConfig.target: is {self.target!r}; allowed: cpu, cuda")
        if self.params_dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"DeviceConfig.params_dtype: is {self.params_dtype}; allowed: float32, bfloat16")
        if self.target == "cuda" and not torch.cuda.is_available():
            raise ValueError("DeviceConfig.target: 'cuda' asked for, but PyTorch sees no CUDA GPU; use target='cpu'")

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.index) if self.target == "cuda" else torch.device("cpu")


@dataclass(frozen=True)
class RuntimeConfig:
    """use_cuda_graph: replay captured graphs; False runs the same code eagerly (slow, for debugging)."""

    use_cuda_graph: bool = True


@dataclass(frozen=True)
class EngineConfig:
    device: DeviceConfig = field(default_factory=DeviceConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass(frozen=True)
class EngineArgs:
    """plugin: "pi05" or "pi0"; plugin_args: `PI05Args` or `PI0Args`."""

    plugin: str
    plugin_args: Any
    config: EngineConfig = field(default_factory=EngineConfig)
