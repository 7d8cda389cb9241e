# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""bench: its rows, its floor, its traces; run whole with a toy model on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pi_vla_ros.bench import measure as measuring
from pi_vla_ros.bench.case import Case
from pi_vla_ros.bench.ceilings import Ceilings, floor_ms
from pi_vla_ros.bench.measure import NotRepeatable, Subject, measure, paced, quantile
from pi_vla_ros.bench.report import grid, plot
from pi_vla_ros.bench.trace import choices, inside, launched, maker, on_gpu, ran
from pi_vla_ros.cli import bench
from pi_vla_ros.model.geometry import PI0, PI05

H200 = Ceilings(tflops=780.0, copy_tbytes=4.27, read_tbytes=4.24)
CPU = torch.device("cpu")
TINY = Case(views=2, prompt_len=9, chunk_size=4, steps=2, precision="fp32", tiny=True)


@pytest.fixture(autouse=True)
def threads():
    """An engine of a toy model sets one for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("model", "prompt", "floor"),
    # vision 0.84 ms; prefix 4.1 to 5.0; the expert's 6.2 GB 1.45 ms: counted by hand for docs/bench
    [("pi05", 48, 6.3), ("pi05", 200, 7.1), ("pi0", 20, 6.2)],
)
def test_floor_of_the_published_models(model, prompt, floor):
    case = Case(model=model, prompt_len=prompt)
    assert floor_ms(case.geometry, case, H200) == pytest.approx(floor, abs=0.1)


def test_floor_of_many_robots():
    one, many = Case(prompt_len=200), Case(prompt_len=200, batch=40)
    expert = 1e3 * 10 * 18 * 2 * (1024 * 9 * 256 * 2 + 3 * 1024 * 4096) / 4.24e12
    shared = floor_ms(PI05, one, H200) - expert
    assert floor_ms(PI05, replace(one, batch=2), H200) == pytest.approx(2 * shared + expert)
    # 2000 rows: no longer the memory but the arithmetic sets the expert's floor
    arithmetic = expert * 4.24 / 780 * 2000
    assert floor_ms(PI05, many, H200) == pytest.approx(40 * shared + arithmetic) and arithmetic > expert


def test_floor_of_a_vision_tower_in_its_own_precision():
    """π0's tower in fp32 at a tenth of the rate: ten times its 0.66e12 operations."""
    case = Case(model="pi0", prompt_len=20)
    mixed = floor_ms(PI0, case, replace(H200, vision_tflops=78.0)) - floor_ms(PI0, case, H200)
    assert mixed == pytest.approx(9 * 0.66 / 0.78, rel=0.02)


@pytest.mark.parametrize("model", [pytest.param("pi0", marks=pytest.mark.slow), "pi05"])
def test_vision_in_its_own_precision(model):
    mixed = replace(TINY, model=model, precision="bf16", vision_precision="fp32")
    for case, dtype in ((mixed, torch.float32), (replace(mixed, vision_precision=None), torch.bfloat16)):
        subject = Subject(case, CPU)
        model_ = subject.engine._runner._model
        assert model_.vision.layers[0].mlp.fc1.weight.dtype == dtype
        assert model_.language.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    row = measure(Subject(mixed, CPU), replace(H200, vision_tflops=78.0), 1, 0.0)
    assert (row["precision"], row["vision_precision"], row["ceilings"]["vision_tflops"]) == ("bf16", "fp32", 78.0)
    with pytest.raises(ValueError, match="--vision-precision: with --precision fp8"):
        replace(mixed, precision="fp8").engine(CPU)


def test_quantiles():
    values = list(range(1000, 0, -1))
    assert [quantile(values, q) for q in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]
    assert quantile([3.0], 0.5) == quantile([3.0], 0.999) == 3.0


class Clock:
    """In the place of `time`: it goes on only while somebody sleeps."""

    now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(("rate", "begun"), [(20, [0, 0.05, 0.1, 0.25, 0.3]), (None, [0, 0.01, 0.02, 0.14, 0.15])])
def test_steps_at_a_rate_begin_on_time_and_a_late_one_on_the_next_period(rate, begun, monkeypatch):
    monkeypatch.setattr(measuring, "time", clock := Clock())
    found = []
    for _, step in zip(paced(5, rate), [0.01, 0.01, 0.12, 0.01, 0.01], strict=True):
        found.append(clock.now - 100)
        clock.now += step
    assert found == pytest.approx(begun, abs=1e-9)


def test_random_geometry_takes_the_prompt():
    assert Case(model="pi0", prompt_len=120).geometry == replace(PI0, prompt_len=120)
    assert Case(model="pi0", prompt_len=20).geometry.prompt_len == 48


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_whole_command(model, tmp_path, capsys):
    given = f"--tiny --model {model} --views 2 --prompt-len 9 --chunk-size 4 --steps 2 --batch 2 --frame 60x80"
    given += " --iters 5 --idle 0.25 --rate 50"
    files = f"--json {tmp_path}/rows.json --plot {tmp_path}/rows.png"
    assert bench.main(f"{given} {files}".split()) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    sizes = {"model": model, "views": 2, "prompt_len": 9, "chunk_size": 4, "steps": 2, "batch": 2, "iters": 5}
    sizes |= {"frame": [60, 80], "idle_s": 0.25, "rate_hz": 50.0}
    assert {k: row[k] for k in sizes} == sizes and row["precision"] == "fp32" and row["fused"] is False
    assert set(row["stage_ms"]) == {"vision", "prefix", "expert", "copies"}
    for name in ("wall_ms", "graph_ms"):
        times = [row[name][q] for q in ("p50", "p90", "p99", "p99.9", "max")]
        assert times == sorted(times) and times[0] > 0
    assert row["command"] == f"bench {given} {files}" and row["gpu"] == "none (CPU)"
    for key in ("date", "commit", "after_idle_ms", "init_s", "memory_gib", "floor_ms", "floor_fraction", "ceilings"):
        assert key in row
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert f"{row['wall_ms']['p50']:.2f}" in (told := capsys.readouterr().out) and "\n50 steps a second\n" in told


def test_every_row_is_a_bar_of_its_own(tmp_path, monkeypatch):
    from matplotlib import figure

    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **o: drawn.append(self.axes[0]))
    row = {"model": "pi05", "views": 3, "prompt_len": 200, "chunk_size": 50, "batch": 1, "rate_hz": None, "floor_ms": 7}
    row |= {"stage_ms": dict(vision=1.5, prefix=5.0, expert=4.0, copies=0.5), "wall_ms": {"p50": 12.0, "p99.9": 13.0}}
    row |= {"gpu": "GPU", "precision": "bf16", "vision_precision": "bf16", "frame": [224, 224], "date": "today"}
    others = {"rate_hz": 30.0}, {"vision_precision": "fp32", "frame": [480, 640]}
    plot([row, row, *(row | other for other in others)], tmp_path / "rows.png")
    (axes,) = drawn
    bars = {(b.get_y() + b.get_height() / 2, b.get_x(), b.get_width()) for b in axes.patches}
    assert bars == {(y, *bar) for y in range(4) for bar in [(0.0, 1.5), (1.5, 5.0), (6.5, 4.0), (10.5, 0.5)]}
    names = [t.get_text() for t in axes.get_yticklabels()]
    unusual = ["", ", 30 Hz", ", vision fp32, frames 480x640"]
    assert names == ["pi05, 3 cam, prompt 200, chunk 50, batch 1" + told for told in ["", *unusual]]


def test_matrix_measures_every_size_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "VIEWS", (1, 2))
    monkeypatch.setattr(bench, "PROMPTS", (5, 60, 20))
    assert (
        bench.main(f"--tiny --model pi0 --matrix --steps 1 --iters 2 --idle 0 --json {tmp_path}/rows.json".split()) == 0
    )
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(r["views"], r["prompt_len"]) for r in rows] == [(1, 5), (1, 20), (2, 5), (2, 20)]  # π0's prompts end at 48
    assert grid(rows) in capsys.readouterr().out


def test_matrix_of_a_checkpoint_has_its_cameras(tiny_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "VIEWS", (1, 9))
    monkeypatch.setattr(bench, "PROMPTS", (5,))
    folder = tiny_checkpoint("pi05")
    given = f"--tiny --checkpoint {folder} --matrix --steps 1 --iters 2 --idle 0 --json {tmp_path}/rows.json"
    assert bench.main(given.split()) == 0
    assert [(r["views"], r["prompt_len"]) for r in json.loads((tmp_path / "rows.json").read_text())] == [(1, 5)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--prompt-len 0", "--prompt-len 0"),
        ("--views 0", "must be at least 1, is 0"),
        ("--iters 0", "--iters"),
        ("--precision int4", "--precision"),
        ("--vision-precision fp8", "--vision-precision"),
        ("--frame 480", "--frame"),
        ("--idle -1", "--idle: must be 0 or more"),
        ("--idle nan", "--idle: must be 0 or more"),
        ("--rate 0", "--rate: must be more than 0"),
        ("--rate inf", "--rate: must be more than 0"),
        ("--frame 0x640", "--frame"),
    ],
)
def test_bad_sizes_are_told(given, told, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--tiny", *given.split()])
    assert end.value.code != 0 and told in f"{end.value.code} {capsys.readouterr().err}"


def test_other_actions_for_the_same_inputs_end_the_run():
    subject = Subject(TINY, CPU)
    subject.step()
    subject.first = subject.first + 1e-6
    with pytest.raises(NotRepeatable):
        subject.step()


@pytest.mark.slow
def test_set_up_in_new_processes():
    told = bench.in_new_processes(replace(TINY, precision="bf16"))
    assert set(told) == {"init_cold_s", "init_warm_s"} and all(0 < s < 60 for s in told.values())


def test_new_processes_find_this_machines_tiles_but_no_kernels(monkeypatch, tmp_path):
    for kind in ("tuning", "kernels"):
        (tmp_path / "pi_vla_ros" / kind).mkdir(parents=True)
        (tmp_path / "pi_vla_ros" / kind / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []

    def run(command, env, **_):
        cache = Path(env["XDG_CACHE_HOME"], "pi_vla_ros")
        found.append((cache, sorted(str(p.relative_to(cache)) for p in cache.rglob("*"))))
        return SimpleNamespace(stdout="1.264\n")

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.in_new_processes(TINY) == {"init_cold_s": 1.26, "init_warm_s": 1.26}
    assert found[0] == found[1] and found[0][1] == ["tuning", "tuning/file"] and not found[0][0].exists()


def event(category, name, ts, dur, tid=1, **args):
    return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "pid": 0, "tid": tid, "args": args}


def test_kernels_are_found_under_their_phase_and_product():
    events = [
        event("user_annotation", "replay", 0, 5),
        event("cuda_runtime", "cudaGraphLaunch", 1, 2, correlation=1),
        event("kernel", "nvjet", 3, 9, tid=7, correlation=1),  # of a graph: in no phase
        event("user_annotation", "vision", 10, 30),
        event("user_annotation", "linear 4x8 16x8 4x16", 11, 4),
        event("cuda_driver", "cuLaunchKernelEx", 12, 1, correlation=2),
        event("kernel", "linear_kernel", 40, 6.0, tid=7, correlation=2),
        event("cpu_op", "aten::addmm", 20, 5, **{"Input Dims": [[4, 8], [8, 16], []]}),
        event("cuda_runtime", "cudaLaunchKernelExC", 21, 1, correlation=3),
        event("kernel", "nvjet_tst", 47, 3.0, tid=7, correlation=3),
        event("cpu_op", "aten::addmm", 26, 5, **{"Input Dims": [[4, 8], [8, 16], []]}),
        event("cuda_runtime", "cudaLaunchKernelExC", 27, 1, correlation=4),
        event("kernel", "nvjet_tst", 51, 5.0, tid=7, correlation=4),
        event("user_annotation", "expert", 50, 30),
        event("user_annotation", "expert_step", 51, 20),
        event("cuda_driver", "cuLaunchKernel", 52, 1, correlation=5),
        event("kernel", "stray", 60, 1.0, tid=7, correlation=5),
        event("cpu_op", "aten::scaled_dot_product_attention", 55, 9, **{"Input Dims": [[1, 2, 3, 4]]}),
        event("cpu_op", "aten::_flash_attention_forward", 56, 5, **{"Input Dims": [[1, 2, 3, 4]]}),
        event("cuda_runtime", "cudaLaunchKernel", 57, 1, correlation=6),
        event("kernel", "pytorch_flash::flash_fwd_kernel", 66, 2.0, tid=7, correlation=6),
        {"ph": "f", "cat": "ac2g", "name": "ac2g", "ts": 12},
    ]
    found = list(launched(events))
    told = [(r.phase, r.product, r.maker, r.calls, r.us) for r in ran(found)]
    assert told == [
        ("vision", "addmm 4x8 8x16", "cuBLAS", 2, 8.0),
        ("vision", "linear 4x8 16x8 4x16", "Triton", 1, 6.0),
        ("expert_step", "scaled_dot_product_attention 1x2x3x4", "SDPA", 1, 2.0),
        ("expert_step", "stray", "PyTorch", 1, 1.0),
    ]
    assert "4.0  addmm 4x8 8x16 -> nvjet_tst" in choices(ran(found))
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in on_gpu(found)}
    assert spans == {"vision": (40, 56), "expert": (60, 68), "expert_step": (60, 68)}


def test_steps_inside_the_resident_kernel_end_with_it():
    events = [
        event("user_annotation", "expert", 50, 30),
        event("cuda_driver", "cuLaunchKernel", 52, 1, correlation=5),
        event("kernel", "flow_loop", 100.0, 1000.0, tid=7, correlation=5),
    ]
    steps = inside(list(launched(events)), [0.3, 0.2, 0.4])
    assert [e["name"] for e in steps] == ["expert_step"] * 3 and {e["pid"] for e in steps} == {0}
    assert [(e["ts"], e["ts"] + e["dur"]) for e in steps] == [
        pytest.approx((200, 500)), pytest.approx((500, 700)), pytest.approx((700, 1100)),
    ]  # fmt: skip
    assert inside(list(launched(events[:2])), []) == []


def test_makers_of_our_own_kernels():
    assert maker("anything", "flow_loop") == "CUDA" and maker("anything", "qkv_kernel") == "Triton"
    assert maker("anything", "pytorch_kernel") == "PyTorch"
