# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The single-GPU runtime: `Engine.step(request)` turns camera tensors and a prompt into a chunk of actions."""

from pi_vla_ros.engine.config import DeviceConfig, EngineArgs, EngineConfig, RuntimeConfig
from pi_vla_ros.engine.engine import Engine
from pi_vla_ros.engine.plugins import PI0Args, PI05Args
from pi_vla_ros.engine.requests import PI0Request, PI05Request, RequestError

__all__ = [
    "DeviceConfig",
    "Engine",
    "EngineArgs",
    "EngineConfig",
    "PI0Args",
    "PI0Request",
    "PI05Args",
    "PI05Request",
    "RequestError",
    "RuntimeConfig",
]
