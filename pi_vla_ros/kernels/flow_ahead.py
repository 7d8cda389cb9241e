# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The first layers of the flow loop's first step, while the prefix is still at work (flow_ahead.cu, sm_90a). It equals

    x = enter(x_t)                                # flow_loop_reference's first step, up to layer `layers`
    for layer in range(layers):
        x = layer(x, keys[layer], values[layer])  # waits for the prefix's layer

and leaves x, its norm's input and sums of squares where the flow loop (flow_loop.py) goes on. A layer of the first step needs
of the prefix only the keys and values of the same layer. Four programs are enough: docs/engine/flow_ahead.md.
"""

from __future__ import annotations

from torch import Tensor

from pi_vla_ros.kernels.cuda import Kernel, kernel, mma

PROGRAMS, THREADS = 4, 384


def layers_ahead(rows: int, depth: int) -> int:
    """How many of `depth` layers, never the last, are done when a prefix of `rows` rows is.

    By what one layer of each takes on an H200, µs (docs/engine/flow_ahead.md): one more would be waited for."""
    prefix, own = 95 + 0.225 * rows, 260
    return min(depth - 1, int((depth - 1) * prefix / own))


def built(groups: int, state: bool, depth: int, held: bool) -> Kernel:
    """The kernel for `groups` of 8 tokens, compiled once a process."""
    defines = {"GROUPS": groups, "STATE": int(state), "LAYERS": depth, "HELD": int(held)}
    return kernel("flow_ahead", tuple(defines.items()), (mma(48), mma(64), mma(72), mma(256, "regs", transposed=True)))


def launch(run: Kernel, params: Tensor, x_t: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, layer_chunks: int,
           layers: int, target: Tensor | None, delay: Tensor | None) -> None:  # fmt: skip
    """params: struct Params on the device; x_t [H, A], lengths [≥ 1], keys, values, target, delay: FlowLoop.launch's.

    Counts the prefix's layers at C_READY (flow.cuh), which somebody else raises."""
    run(PROGRAMS, THREADS, [params, x_t, lengths, keys, values, layer_chunks, layers, target, delay])
