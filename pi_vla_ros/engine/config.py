# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How an engine is set up: which device, which precision, which runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from pi_vla_ros.engine.fp8 import FP8
from pi_vla_ros.processing.images import RESIZES, Resize


@dataclass(frozen=True)
class DeviceConfig:
    """Where the model runs and in what precision.

    target:       "cpu" runs the PyTorch reference; "cuda" runs on the GPU.
    index:        which GPU.
    params_dtype: dtype of the weights; heads, norms and time path stay in fp32 whatever it is. float8_e4m3fn runs
                  the layers of vision and language in fp8 and the rest in bf16.
    cpu_threads:  threads of one operation on the CPU; 0 leaves PyTorch's choice. One is best for a tiny model.
    """

    target: Literal["cpu", "cuda"] = "cpu"
    index: int = 0
    params_dtype: torch.dtype = torch.float32
    cpu_threads: int = 0

    def __post_init__(self):
        if self.target not in ("cpu", "cuda"):
            raise ValueError(f"DeviceConfig.target: is {self.target!r}; allowed: cpu, cuda")
        if self.params_dtype not in (torch.float32, torch.bfloat16, FP8):
            raise ValueError(
                f"DeviceConfig.params_dtype: is {self.params_dtype}; allowed: float32, bfloat16, float8_e4m3fn"
            )
        if self.target == "cuda" and not torch.cuda.is_available():
            raise ValueError("DeviceConfig.target: 'cuda' asked for, but PyTorch sees no CUDA GPU; use target='cpu'")
        if self.fp8 and (self.target == "cpu" or torch.cuda.get_device_capability(self.index) < (8, 9)):
            raise ValueError("DeviceConfig.params_dtype: float8_e4m3fn needs an NVIDIA GPU of sm_89 or later")

    @property
    def fp8(self) -> bool:
        return self.params_dtype == FP8

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.index) if self.target == "cuda" else torch.device("cpu")


@dataclass(frozen=True)
class RuntimeConfig:
    """use_cuda_graph: replay captured graphs; False runs the PyTorch model eagerly (slow, for debugging).
    fused:          our kernels in the graphs, where the layers are bf16 (the vision tower may be fp32); False captures
                    the PyTorch model, as do fp32 and fp8 layers.
    rtc:            real-time chunking that requests may ask for: "guided" works with every checkpoint, "trained" with
                    those trained for it (π0.5). A request that asks for none costs what it costs without.
    resize:         how a request's camera frames become the model's size (processing/images.py); None: as the
                    checkpoint was trained, "pil" for random weights.
    largest_frame:  (height, width) of the largest frame that our kernels can resize on the GPU; larger ones, and all
                    where it is None, are resized on the CPU.
    """

    use_cuda_graph: bool = True
    fused: bool = True
    rtc: Literal["off", "guided", "trained"] = "off"
    resize: Resize | None = None
    largest_frame: tuple[int, int] | None = None

    def __post_init__(self):
        if self.rtc not in ("off", "guided", "trained"):
            raise ValueError(f"RuntimeConfig.rtc: is {self.rtc!r}; allowed: off, guided, trained")
        if self.resize is not None and self.resize not in RESIZES:
            raise ValueError(f"RuntimeConfig.resize: is {self.resize!r}; allowed: {', '.join(RESIZES)}")
        if self.largest_frame is not None and min(self.largest_frame) < 1:
            raise ValueError(f"RuntimeConfig.largest_frame: must be (height, width), is {self.largest_frame}")


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
