# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The captured-graph engine on a GPU against the PyTorch reference on the CPU; skipped where there is no GPU."""

import dataclasses

import pytest
import torch

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.checkpoint.random_checkpoint import random_checkpoint
from pi_vla_ros.engine import (
    DeviceConfig,
    Engine,
    EngineArgs,
    EngineConfig,
    PI0Args,
    PI0Request,
    PI05Args,
    PI05Request,
    RequestError,
    RuntimeConfig,
)
from pi_vla_ros.engine import engine as engine_module
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.robot import load_robot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
ARGS = {"pi05": PI05Args, "pi0": PI0Args}


@pytest.fixture(autouse=True)
def full_fp32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)


def engine(model, target, graph=True, dtype=torch.float32):
    args = ARGS[model](random_geometry=tiny(model, chunk=7, prompt_len=40), max_batch_size=3, seed=3)
    if target == "cuda":  # the random weights of the CPU engine: a generator's numbers differ between devices
        runtime = RuntimeConfig(graph, fused=False, rtc="guided")
        return Engine(EngineArgs(model, args, EngineConfig(DeviceConfig("cuda", params_dtype=dtype), runtime)))
    return Engine(EngineArgs(model, args, EngineConfig(runtime=RuntimeConfig(rtc="guided"))))


def same_weights(source, target):
    state = {name: value.to(dict(target.named_parameters())[name].dtype) for name, value in source.state_dict().items()}
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(state[name])


def request(model, batch, seed):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 41, (batch,), generator=g)
    fields = {
        "pixel_values": torch.rand(batch, 3, 3, 56, 56, generator=g) * 2 - 1,
        "input_ids": torch.randint(5, 500, (batch, 40), generator=g),
        "lang_lens": lengths,
        "noise": torch.randn(batch, 7, 32, generator=g),
        "camera_mask": torch.tensor([[True, seed % 2 == 0, seed % 3 > 0]] * batch),
    }
    if model == "pi0":
        fields["state"] = torch.randn(batch, 32, generator=g)
    if seed % 2:
        fields["rtc_target"] = torch.randn(batch, 7, 32, generator=g)
        fields["rtc_weights"] = torch.rand(batch, 7, generator=g)
    return (PI0Request if model == "pi0" else PI05Request)(**fields)


@pytest.mark.parametrize("model", ["pi05", "pi0"])
@pytest.mark.parametrize("graph", [True, False])
def test_fp32_equals_the_cpu_reference(model, graph):
    """Prompt lengths, masks and batch sizes change from call to call; the captured graphs follow."""
    with engine(model, "cpu") as cpu, engine(model, "cuda", graph) as gpu:
        same_weights(cpu._runner._model, gpu._runner._model)
        for seed in range(12):
            r = request(model, 1 + seed % 3, seed)
            torch.testing.assert_close(gpu.step(r), cpu.step(r), atol=5e-5, rtol=0)
        assert set(gpu.stage_ms) == {"vision", "prefix", "expert", "copies"}


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_bf16_is_near(model):
    with engine(model, "cpu") as cpu, engine(model, "cuda", dtype=torch.bfloat16) as gpu:
        same_weights(cpu._runner._model, gpu._runner._model)
        for seed in range(4):
            r = request(model, 3, seed)
            a, b = cpu.step(r), gpu.step(r)
            assert (a - b).norm() / a.norm() < 5e-2


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_the_fused_engine_is_near_too(model):
    """The engine that a robot gets: our kernels, at a size they were not tuned for; masks, lengths, batches change."""
    args = ARGS[model](
        random_geometry=tiny(model, chunk=7, prompt_len=40), max_batch_size=3, seed=3, vision_params_dtype=None
    )
    config = EngineConfig(DeviceConfig("cuda", params_dtype=torch.bfloat16))
    with engine(model, "cpu") as cpu, Engine(EngineArgs(model, args, config)) as fused:
        assert fused.fused
        # the same random weights: generators differ between devices, so the CPU engine takes the GPU's
        same_weights(
            random_model(tiny(model, chunk=7, prompt_len=40), torch.bfloat16, device="cuda", seed=3), cpu._runner._model
        )
        for seed in range(0, 12, 2):
            r = request(model, 1 + seed % 3, seed)
            a, b = cpu.step(r), fused.step(r)
            assert (a - b).norm() / a.norm() < 5e-2
        assert set(fused.stage_ms) == {"vision", "prefix", "expert", "copies"}
        with pytest.raises(RequestError, match="built with RuntimeConfig"):
            fused.step(request(model, 1, 1))


def test_replays_are_bit_identical_and_calls_do_not_disturb_each_other():
    with engine("pi05", "cuda") as gpu:
        r = request("pi05", 2, 0)
        first = gpu.step(r)
        for seed in range(1, 8):
            gpu.step(request("pi05", 1 + seed % 3, seed))
            assert torch.equal(gpu.step(r), first)


def test_single_robots_equal_the_batch():
    with engine("pi05", "cuda") as gpu:
        r = request("pi05", 3, 4)
        together = gpu.step(r)
        for row in range(3):
            picked = {
                f.name: v[[row]] if isinstance(v := getattr(r, f.name), torch.Tensor) else v
                for f in dataclasses.fields(r)
            }
            torch.testing.assert_close(gpu.step(PI05Request(**picked))[0], together[row], atol=5e-5, rtol=0)


def test_fp8_products_are_their_reference():
    from pi_vla_ros.engine.fp8 import Fp8Linear, reference

    for k, n, rows, bias in ((128, 64, 7, True), (2048, 4304, 968, False), (1152, 1152, 256, True)):
        linear = torch.nn.Linear(k, n, bias=bias, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(2, rows, k, device="cuda", dtype=torch.bfloat16)
        with torch.inference_mode():
            expected, y = reference(x, linear), Fp8Linear(linear)(x).float()
        assert (y - expected).norm() / expected.norm() < 5e-3  # bf16 output


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_fp8_is_near(model):
    from pi_vla_ros.engine.fp8 import to_fp8

    with engine(model, "cpu") as cpu:
        bf16 = engine(model, "cuda", dtype=torch.bfloat16)
        same_weights(cpu._runner._model, bf16._runner._model)
        runner = type(bf16._runner)(to_fp8(bf16._runner._model), cameras=3, max_batch=3, steps=10, rtc="guided")
        bf16._runner = runner
        for seed in range(4):
            r = request(model, 3, seed)
            a, b = cpu.step(r), bf16.step(r)
            assert (a - b).norm() / a.norm() < 1e-1  # tiny layers round worse than real ones
        bf16.close()


def test_a_gpu_that_the_kernels_do_not_run_on_gets_the_pytorch_graphs(monkeypatch):
    from pi_vla_ros.engine.fused import runner

    def broken(*args, **kwargs):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(runner, "FusedRunner", broken)
    args = PI05Args(random_geometry=tiny("pi05", chunk=7, prompt_len=40), max_batch_size=3)
    config = EngineConfig(DeviceConfig("cuda", params_dtype=torch.bfloat16))
    with pytest.warns(UserWarning, match="no such instruction"), Engine(EngineArgs("pi05", args, config)) as e:
        assert not e.fused and e.step(request("pi05", 2, 0)).shape == (2, 7, 32)


def test_the_token_embedding_never_takes_gpu_memory(monkeypatch, tmp_path):
    """Not while it is loaded, either: an engine's peak does not grow with the vocabulary. Its words are the model's."""
    peaks = []
    for vocab in (512, 1 << 20):  # 64 KiB, 128 MiB
        geometry = tiny("pi05", chunk=7, prompt_len=40, vocab=vocab)
        checkpoint = random_checkpoint(load_robot("sim"), geometry, 0, tmp_path)
        monkeypatch.setattr(engine_module, "load_checkpoint", lambda path, settings, found=checkpoint: found)
        config = EngineConfig(DeviceConfig("cuda", params_dtype=torch.bfloat16))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        args = EngineArgs("pi05", PI05Args(checkpoint_dir=tmp_path), config)
        with Engine(args) as e, Engine(dataclasses.replace(args, config=EngineConfig())) as cpu:
            assert e.fused
            for seed in (0, 2):
                r = request("pi05", 1, seed)
                r = dataclasses.replace(r, input_ids=r.input_ids * (vocab // 512))
                a, b = cpu.step(r), e.step(r)
                assert (a - b).norm() / a.norm() < 5e-2
            peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] - peaks[0] < 8 << 20


def test_fewer_cameras_are_prepared_too():
    args = PI05Args(random_geometry=tiny("pi05", chunk=7, prompt_len=40), max_batch_size=1)
    config = EngineConfig(DeviceConfig("cuda", params_dtype=torch.bfloat16))
    with Engine(EngineArgs("pi05", args, config)) as e:
        e.prepare(2)
        before = len(e._runner._graphs)
        for length in (3, 17, 40):
            r = dataclasses.replace(request("pi05", 1, 0), camera_mask=torch.tensor([[True, False, True]]))
            e.step(dataclasses.replace(r, lang_lens=torch.tensor([length])))
        assert len(e._runner._graphs) == before
