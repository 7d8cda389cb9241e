# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A captured graph that the driver launches itself."""

from __future__ import annotations

import ctypes

import torch

from pi_vla_ros.kernels.cuda import check, driver


class Captured:
    """Call it to launch `graph` on `stream`; the thread must have used the stream's device before.

    A stream to be set, a generator to be asked and a stream to be set back are little, but 0.1 ms where nothing of them is
    in the host's caches, as it is after a sleep (docs/engine/fused_runner.md). Where PyTorch is too old to tell the graph's
    handle, it replays the graph itself."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream):
        self._graph, self._stream = graph, stream
        tells = getattr(graph, "raw_cuda_graph_exec", None)
        self._launch = tells and (ctypes.c_void_p(int(tells())), ctypes.c_void_p(stream.cuda_stream))

    def __call__(self) -> None:
        if self._launch:
            check(driver().cuGraphLaunch(*self._launch))
        else:
            with torch.cuda.stream(self._stream):
                self._graph.replay()
