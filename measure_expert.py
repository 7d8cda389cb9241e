#!/usr/bin/env python3
# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The flow loop of 15 clusters (flow_clusters.cu) against fp32 PyTorch and beside the present kernel (flow_loop.cu).

    python measure_expert.py              # both models, each in a process of its own with a time limit; JSON lines
    python measure_expert.py suite        # the GPU tests of the fused runner, with the new kernel in the old one's place

A line has: relative error and cosine against fp32, whether 200 runs gave the same bits (buffers full of NaN before them),
median and 99th percentile of the graph replays in ms, kernels in turn in one process. `ticks`: µs a layer by phase, median
of the programs. A kernel that hangs is told with its counters after 10 s, and the next process goes on.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

REHEARSAL = "REHEARSAL" in os.environ  # on the CPU's emulator: small, and no times worth reading
REPLAYS, SAME = (1, 1) if REHEARSAL else (300, 200)
KERNELS = ("present", "clusters", "clusters, no multicast", "clusters, by head", "ticks")
SKIP, HANGS = os.environ.get("SKIP", "").split(";"), 64  # kernels that hung; exit status of the first one of KERNELS
PHASES = (
    "turn", "enter_send", "enter_wait", "enter_sum", "qkv_wait", "qkv_product", "qkv_write", "q_wait", "scores", "softmax", "answer",
    "answer_send", "answer_wait", "join_write", "att_wait", "out_product", "out_send", "out_wait", "out_sum_write", "up_wait",
    "up_product", "geglu_write", "act_wait", "down_product", "down_send", "down_wait", "down_sum_write",
)  # fmt: skip
ATTENTION = set(range(7, 14))  # of the first 64 programs only
CASES = {"pi05": [("prompt 200", 50, 968), ("prompt 48", 50, 816), ("chunk 63, 4 cameras", 63, 1224)],
         "pi0": [("prompt 20", 50, 788), ("chunk 10, prefix 1", 10, 1)]}  # fmt: skip


def tell(**row) -> None:
    print(json.dumps(row), flush=True)


def rehearse() -> None:
    """What is said about a GPU, without one."""
    import contextlib
    from unittest import mock

    import torch

    sys.path.insert(0, str(HERE / "test"))
    from cuda_on_cpu import Kernel

    from pi_vla_ros.kernels import cuda

    class Event(mock.MagicMock):
        query = lambda self: True  # noqa: E731
        elapsed_time = lambda self, other: 1.0  # noqa: E731

    class Graph:
        run = None
        replay = lambda self: self.run()  # noqa: E731

    @contextlib.contextmanager
    def graph(g, stream):
        yield

    cuda.kernel = functools.cache(lambda name, defines, wrappers: Kernel(name, dict(defines), wrappers, 1))
    for key, v in {"Event": Event, "CUDAGraph": Graph, "graph": graph, "Stream": mock.MagicMock,
                   "stream": lambda s: contextlib.nullcontext(), "synchronize": lambda: None, "empty_cache": lambda: None}.items():  # fmt: skip
        setattr(torch.cuda, key, v)


def one(name: str, only: str | None) -> None:
    import torch

    from pi_vla_ros.engine.fused.autotune import blank_model
    from pi_vla_ros.engine.fused.weights import gemma_layer, modulations, turns
    from pi_vla_ros.kernels import cuda, flow_clusters, flow_loop
    from pi_vla_ros.kernels.flow_clusters import CTAS, FlowClusters
    from pi_vla_ros.kernels.flow_loop import FlowLoop, tiles
    from pi_vla_ros.kernels.qkv import paired, rope_tables
    from pi_vla_ros.model.flow import sample
    from pi_vla_ros.model.geometry import GEMMA_300M, GemmaGeometry, tiny
    from pi_vla_ros.model.pi import Prefix
    from pi_vla_ros.model.rtc import Guidance

    device, steps = torch.device("cpu" if REHEARSAL else "cuda"), 1 if REHEARSAL else 10
    if REHEARSAL:
        rehearse()
    for module in (flow_loop, flow_clusters):  # each text is compiled once
        module.Kernel = lambda name, defines, wrappers: cuda.kernel(name, tuple(defines.items()), tuple(wrappers))
    expert = replace(GEMMA_300M, depth=1) if REHEARSAL else GEMMA_300M
    side = torch.cuda.Stream()

    def clusters_kept(kernel) -> int:
        attribute = cuda._Attribute(id=4)
        for i, v in enumerate((8, 1, 1)):
            ctypes.c_uint.from_buffer(attribute, 8 + 4 * i).value = v
        config = cuda._Config(CTAS, 1, 1, 384, 1, 1, cuda.SHARED, None, ctypes.pointer(attribute), 1)
        n = ctypes.c_int()
        cuda._check(cuda._driver().cuOccupancyMaxActiveClusters(ctypes.byref(n), kernel._kernel.func, ctypes.byref(config)))
        return n.value

    def wait_or_tell(event, label, key, loop) -> None:
        end = time.time() + 10
        while not event.query():
            if time.time() > end:
                with torch.cuda.stream(side):
                    count = loop._counters.view(-1, 32)[:, 0].to("cpu", non_blocking=True)
                    time.sleep(0.5)
                tell(case=label, error="hangs", counters={i: v for i, v in enumerate(count.tolist()) if v})
                os._exit(HANGS + KERNELS.index(key))
            time.sleep(1e-4)

    for label, chunk, length in CASES[name]:
        if only and only not in label:
            continue
        torch.manual_seed(length)
        language = GemmaGeometry(width=64, depth=expert.depth, mlp=64, heads=8, head_dim=256)
        g = replace(tiny(name), language=language, expert=expert, chunk=chunk)
        model = blank_model(g, device, torch.bfloat16)
        exact = copy.deepcopy(model).float()
        depth, tokens = expert.depth, g.suffix
        prefix = torch.randn(2, depth, length, 256, device=device).bfloat16()
        space = -(-(length + tokens) // 64) * 64
        kv = [torch.full((depth, 1, space, 256), float("nan"), device=device, dtype=torch.bfloat16) for _ in range(2)]
        for to, t, order in zip(kv, prefix, (True, False), strict=True):
            to[:, 0, :length] = paired(t.flatten(0, 1).T, 256).T.view_as(t) if order else t
            to.copy_(tiles(to.view(-1, 64, 4, 64).transpose(1, 2).reshape(-1, 64), 64).view_as(to))
        noise = torch.randn(1, chunk, 32, device=device)
        state = torch.randn(1, 32, device=device) if name == "pi0" else None
        guidance = Guidance(torch.randn(1, chunk, 32, device=device), torch.rand(1, chunk, device=device), torch.tensor([2.0], device=device))
        keys, values = ([layer[None, None] for layer in t.float()] for t in prefix)
        seen = Prefix(keys, values, torch.ones(1, length, dtype=torch.bool, device=device))
        wants = {False: sample(exact, seen, noise, state, steps)[0], True: sample(exact, seen, noise, state, steps, guidance)[0]}
        del exact
        torch.cuda.empty_cache()
        rope = rope_tables(space, 256, device)
        layers = [gemma_layer(layer, 256, torch.bfloat16, alternate=True) for layer in model.expert.layers]
        around, cond = turns(model, steps)
        modulation = None if cond is None else modulations(model.expert, layers, cond, None)
        mix = entering = None
        if name == "pi0":
            mix = model.action_time_mlp_out.weight.detach().float().contiguous()
            entering = model.action_time_mlp_out.bias.detach().float().expand(64, -1).contiguous()
            entering[0] = state[0] @ model.state_proj.weight.detach().float().T + model.state_proj.bias.detach().float()
        given = (layers, around, modulation, mix, entering, rope, space, tokens, steps)
        lengths = torch.tensor([length], device=device, dtype=torch.int32)
        x = torch.empty(chunk, 32, device=device)

        def of(loop, asked):
            def run():
                x.copy_(noise[0])
                loop.launch(x, lengths, *kv, guidance if asked else None)

            return run

        variants = {"present": FlowLoop(*given, keep=True)}
        changed = {"clusters": {}, "clusters, no multicast": {"multicast": False}, "clusters, by head": {"by_head": True}, "ticks": {"clock": True}}
        if REHEARSAL or chunk == 63:  # clock64 is a GPU's; and one build less to wait for
            del changed["ticks"]
        for key, changes in changed.items():
            if key in SKIP:
                continue
            variants[key] = FlowClusters(*given, keep=True, **changes)
        kept = 15 if REHEARSAL or len(variants) == 1 else clusters_kept([*variants.values()][1]._kernel)
        if kept < 15:
            tell(case=f"{name}, {label}", error=f"this GPU keeps {kept} clusters of 8, not 15")
            variants = {"present": variants["present"]}
        graphs = {}
        for key, loop in variants.items():
            row = {"case": f"{name}, {label}", "kernel": key, "clusters_kept": kept}
            for asked in (False, True):
                run, event = of(loop, asked), torch.cuda.Event()
                for t in loop._keep[depth + 1 : depth + 5]:  # h, q, att, act: NaN, a run writes before it reads
                    t.fill_(float("nan"))
                run()
                event.record()
                wait_or_tell(event, row["case"] + ", " + key, key, loop)
                first, want = x.clone(), wants[asked]
                error = ((first - want).norm() / want.norm()).item()
                cosine = torch.nn.functional.cosine_similarity(first.flatten(), want.flatten(), 0).item()
                different = 0
                for _ in range(min(SAME, 20) if asked else SAME):
                    run()
                    different += int(not torch.equal(x, first))
                which = "guided_" if asked else ""
                row |= {which + "error": float(f"{error:.3g}"), which + "cosine": round(cosine, 7), which + "runs_that_differ": different}
            row["ok"] = bool(row["error"] <= 2e-2 and row["guided_error"] <= 2e-2 and row["cosine"] >= 0.9995
                             and not row["runs_that_differ"] and not row["guided_runs_that_differ"])  # fmt: skip
            tell(**row)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                of(loop, False)()
                stream.synchronize()
                graphs[key] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graphs[key], stream=stream):
                    of(loop, False)()
                if REHEARSAL:
                    graphs[key].run = of(loop, False)
        spent = {key: [] for key in graphs}
        warm_up = 0 if REHEARSAL else 20
        for i in range(REPLAYS + warm_up):  # in turn
            for key, graph in graphs.items():
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                graph.replay()
                end.record()
                end.synchronize()
                if i >= warm_up:
                    spent[key].append(begin.elapsed_time(end))
        for key, ms in spent.items():
            ms.sort()
            tell(case=f"{name}, {label}", kernel=key, median_ms=round(ms[len(ms) // 2], 4), p99_ms=round(ms[int(len(ms) * 0.99)], 4),
                 least_ms=round(ms[0], 4), us_a_layer=round(1e3 * ms[len(ms) // 2] / steps / depth, 2))  # fmt: skip
        if "ticks" in graphs:
            graphs["ticks"].replay()
            torch.cuda.synchronize()
            t = variants["ticks"].ticks.double() / (1980.0 * steps * depth)  # µs a layer at 1.98 GHz
            rows = {}
            for i, phase in enumerate(PHASES):
                of_programs = t[:64, i] if i in ATTENTION else t[:, i]
                if of_programs.max() > 0:
                    rows[phase] = [round(of_programs.median().item(), 2), round(of_programs.max().item(), 2)]
            tell(case=f"{name}, {label}", ticks_median_and_max_us_a_layer=rows,
                 sum_attention_programs=round(t[:64].sum(1).median().item(), 2), sum_others=round(t[64:].sum(1).median().item(), 2))  # fmt: skip
        del variants, graphs, layers, model


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["one"]:
        import torch

        with torch.inference_mode():
            one(arguments[1], arguments[2] if len(arguments) > 2 else None)
        return
    if arguments[:1] == ["suite"]:
        import pytest

        from pi_vla_ros.engine.fused import stages
        from pi_vla_ros.kernels.flow_clusters import FlowClusters

        stages.FlowLoop = FlowClusters
        sys.exit(pytest.main(["-q", "-x", "-s", "test/gpu/test_fused_runner.py", "test/gpu/test_rtc_cuda.py", "-p", "no:cacheprovider"]))
    for name in CASES:
        skip: list[str] = []
        for _ in KERNELS:
            begin = time.time()
            try:
                done = subprocess.run([sys.executable, __file__, "one", name], timeout=290, cwd=HERE, env={**os.environ, "SKIP": ";".join(skip)})
            except subprocess.TimeoutExpired:
                tell(model=name, error="took more than 290 s")
                break
            tell(model=name, exit=done.returncode, seconds=round(time.time() - begin, 1))
            if done.returncode < HANGS:
                break
            skip.append(KERNELS[done.returncode - HANGS])  # and once more without it


if __name__ == "__main__":
    main()
