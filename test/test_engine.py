# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The engine's contract: shapes, batches, masks, seeds, and errors that name the field."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

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
from pi_vla_ros.engine.noise import Draw, NoiseSource
from pi_vla_ros.model.flow import sample, times
from pi_vla_ros.model.geometry import tiny
from pi_vla_ros.processing.images import image_tensor, missing_image

ARGS = {"pi05": PI05Args, "pi0": PI0Args}
MODELS = ("pi05", "pi0")
GEOMETRY = tiny("pi05", chunk=7, prompt_len=24)


def engine(model="pi05", batch=3, rtc="off", **changes) -> Engine:
    geometry = GEOMETRY if model == "pi05" else tiny(model, chunk=7, prompt_len=24)
    args = ARGS[model](random_geometry=geometry, max_batch_size=batch, seed=3, **changes)
    return Engine(EngineArgs(model, args, EngineConfig(runtime=RuntimeConfig(rtc=rtc))))


def request(model="pi05", batch=3, length=24, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    fields = {
        "pixel_values": torch.rand(batch, 3, 3, 56, 56, generator=generator) * 2 - 1,
        "input_ids": torch.randint(5, 500, (batch, length), generator=generator),
        "lang_lens": torch.tensor([5, 24, 11, 7][:batch]),
        "noise": torch.randn(batch, 7, 32, generator=generator),
    }
    if model == "pi0":
        fields["state"] = torch.randn(batch, 32, generator=generator)
    return (PI0Request if model == "pi0" else PI05Request)(**(fields | changes))


def part(request, rows):
    """The same request for some of its robots."""
    picked = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    return type(request)(**{k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in picked.items()})


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_is_its_robots_one_by_one(model):
    with engine(model) as e:
        whole = request(model)
        together = e.step(whole)
        assert together.shape == (3, 7, 32) and together.dtype == torch.float32 and together.device.type == "cpu"
        for row in range(3):
            torch.testing.assert_close(e.step(part(whole, [row]))[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_the_engine_is_the_model(model):
    """Against the model called by hand."""
    with engine(model) as e:
        r = request(model)
        m = e._runner._model
        with torch.inference_mode():
            x, valid = m.embed_prefix(r.pixel_values, torch.ones(3, 3, dtype=torch.bool), r.input_ids, r.lang_lens)
            expected = sample(m, m.prefix(x, valid), r.noise, getattr(r, "state", None))
        torch.testing.assert_close(e.step(r), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_masked_has_no_influence(model):
    with engine(model) as e:
        mask = torch.tensor([[True, True, False]] * 3)
        r = request(model, camera_mask=mask)
        other = dataclasses.replace(r, pixel_values=r.pixel_values.clone(), input_ids=r.input_ids.clone())
        other.pixel_values[:, 2] = torch.rand(3, 3, 56, 56)
        other.input_ids[0, 5:] = 499  # behind lang_lens
        torch.testing.assert_close(e.step(r), e.step(other), atol=1e-6, rtol=0)
        assert (e.step(r) - e.step(request(model))).abs().max() > 1e-3  # the mask itself has one


def test_prompt_tensors_may_be_shorter_than_the_longest_prompt():
    with engine() as e:
        r = part(request(), [0])  # five valid tokens
        short = dataclasses.replace(r, input_ids=r.input_ids[:, :5])
        torch.testing.assert_close(e.step(r), e.step(short), atol=1e-6, rtol=0)


def test_noise_is_seeded():
    with engine() as a, engine() as b:
        r = dataclasses.replace(request(), noise=None)
        first, second = a.step(r), a.step(r)
        assert (first - second).abs().max() > 1e-3  # the sequence goes on
        assert torch.equal(b.step(r), first)  # from the same seed
        seeded = dataclasses.replace(r, seed=5)
        assert torch.equal(a.step(seeded), b.step(seeded))
        assert (a.step(seeded) - a.step(dataclasses.replace(r, seed=6))).abs().max() > 1e-3


def test_a_seed_of_its_own_makes_a_robot_independent_of_the_others():
    with engine() as e:
        r = dataclasses.replace(request(), noise=None, seed=torch.tensor([7, 8, 7]))
        together = e.step(r)
        alone = part(dataclasses.replace(r, seed=torch.tensor([8, 9, 9])), [0])  # robot 0's inputs, robot 1's seed
        turned = dataclasses.replace(r, seed=torch.tensor([8, 7, 7]))
        torch.testing.assert_close(e.step(alone)[0], e.step(turned)[0], atol=1e-5, rtol=0)
        assert (e.step(alone)[0] - together[0]).abs().max() > 1e-3


def test_noise_is_scaled():
    with engine(batch=1) as e:
        r = dataclasses.replace(request(batch=1), noise=None, seed=1)
        given = dataclasses.replace(r, noise=0.5 * torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1)))
        assert torch.equal(e.step(dataclasses.replace(r, noise_scale=0.5)), e.step(given))


def test_what_a_gpu_draws_from():
    """Its own sequence from draw 1 on; a request's seed is draw 0; streams part the robots of one seed."""
    source = NoiseSource(3, (7, 32))
    first, second = (source.on_gpu(2, Draw(None, 0.5)) for _ in range(2))
    assert first.keys.tolist() == [[1, 3, 0, 1], [1, 3, 1, 1]] and first.scale.tolist() == [0.5, 0.5]
    assert second.keys.tolist() == [[1, 3, 0, 2], [1, 3, 1, 2]]
    assert source.on_gpu(2, Draw(9, 1.0)).keys.tolist() == [[1, 9, 0, 0], [1, 9, 1, 0]]
    assert source.on_gpu(2, Draw(torch.tensor([5, 4]), 1.0)).keys.tolist() == [[1, 5, 0, 0], [1, 4, 0, 0]]


def test_number_of_steps():
    assert times(4) == [1.0, 0.75, 0.5, 0.25]
    with engine(num_inference_steps=1) as one, engine() as ten:
        assert one.steps == 1 and ten.steps == 10
        assert (one.step(request()) - ten.step(request())).abs().max() > 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_real_time_chunking_inputs(model):
    """Full weights hold the start of the chunk to the target; the batch's rows do not mix."""
    with engine(model, rtc="guided") as e:
        r = request(model)
        target, weights = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 7)
        weights[1, :4] = 1.0
        free, guided = e.step(r), e.step(dataclasses.replace(r, rtc_target=target, rtc_weights=weights))
        assert torch.equal(guided[[0, 2]], free[[0, 2]])
        assert (guided - target)[1, :4].norm() < 0.3 * (free - target)[1, :4].norm()
        asked = dataclasses.replace(r, rtc_target=target, rtc_weights=weights, rtc_max_guidance=0.5)
        assert (guided - target)[1, :4].norm() < (e.step(asked) - target)[1, :4].norm()
        assert torch.equal(e.step(dataclasses.replace(asked, rtc_max_guidance=0.0)), free)


def test_committed_actions():
    """The first ones are the target's to the bit; with none to commit to, a step is an ordinary one to the bit."""
    with engine(rtc="trained", rtc_training_max_delay=4) as e, engine() as plain:
        r = request()
        target = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
        free = plain.step(r)
        got = e.step(dataclasses.replace(r, rtc_target=target, rtc_delay=torch.tensor([0, 3, 4])))
        torch.testing.assert_close(got[0], free[0], atol=1e-5, rtol=0)
        assert torch.equal(got[1, :3], target[1, :3]) and torch.equal(got[2, :4], target[2, :4])
        assert (got - free)[1, 3:].abs().max() > 1e-3
        for nothing in (
            {},
            {"rtc_target": target, "rtc_delay": torch.tensor([0, -1, 0])},
            {"rtc_delay": torch.ones(3, dtype=torch.int64)},
        ):
            assert torch.equal(e.step(dataclasses.replace(r, **nothing)), free)


TARGET, WEIGHTS, DELAY = torch.zeros(3, 7, 32), torch.zeros(3, 7), torch.tensor([1, 2, 3])
GUIDED, TRAINED = {"rtc_target": TARGET, "rtc_weights": WEIGHTS}, {"rtc_target": TARGET, "rtc_delay": DELAY}
SHORT = "rtc_target: must be (3, 3 (the longest rtc_delay)..7, 32)"


@pytest.mark.parametrize(
    ("rtc", "change", "words"),
    [
        ("off", GUIDED, "rtc_target: this engine was built with RuntimeConfig(rtc='off')"),
        ("guided", TRAINED, "rtc_delay: this engine was built with RuntimeConfig(rtc='guided')"),
        ("guided", GUIDED | {"rtc_target": TARGET[:, :6]}, "rtc_target: must be (3, 7, 32)"),
        ("guided", {"rtc_target": TARGET}, "rtc_weights: must be a torch.Tensor"),
        ("guided", {"rtc_weights": WEIGHTS}, "rtc_target: must be a torch.Tensor"),
        ("guided", GUIDED | {"rtc_max_guidance": -1.0}, "rtc_max_guidance: must be 0 or more, is -1.0"),
        ("guided", GUIDED | {"rtc_max_guidance": float("nan")}, "rtc_max_guidance: must be 0 or more"),
        ("trained", GUIDED, "rtc_weights: this engine was built with RuntimeConfig(rtc='trained')"),
        ("trained", {"rtc_target": TARGET}, "rtc_delay: must be a torch.Tensor"),
        ("trained", TRAINED | {"rtc_delay": DELAY + 2}, "rtc_delay: is 5; this checkpoint was trained for at most 4"),
        ("trained", TRAINED | {"rtc_delay": DELAY + 6}, "rtc_delay: is 9"),
        ("trained", TRAINED | {"rtc_target": TARGET[:, :2]}, SHORT),
        ("trained", TRAINED | {"rtc_target": TARGET[0]}, SHORT),
        ("trained", TRAINED | {"rtc_target": TARGET / 0}, "rtc_target: has NaN"),
        ("trained", TRAINED | {"rtc_delay": DELAY.float()}, "rtc_delay: must be torch.int64"),
        ("trained", TRAINED | {"rtc_delay": DELAY[:2]}, "rtc_delay: must be (3,)"),
    ],
)
def test_bad_real_time_chunking_is_refused_by_field(rtc, change, words):
    trained = {"rtc_training_max_delay": 4} if rtc == "trained" else {}
    with engine(rtc=rtc, **trained) as e:
        with pytest.raises(RequestError) as error:
            e.step(dataclasses.replace(request(), **change))
        assert words in str(error.value)


def test_trained_chunking_needs_a_model_trained_for_it():
    with pytest.raises(ValueError, match=r"'trained' is π0\.5's"):
        engine("pi0", rtc="trained", rtc_training_max_delay=4)
    for delay in (None, 0, 7):
        with pytest.raises(ValueError, match=r"trained with rtc_training_max_delay in 1\.\.6"):
            engine(rtc="trained", rtc_training_max_delay=delay)
    with pytest.raises(ValueError, match=r"RuntimeConfig\.resize: is 'area'; allowed: pil"):
        RuntimeConfig(resize="area")
    with pytest.raises(ValueError, match=r"RuntimeConfig\.largest_frame: must be \(height, width\), is \(0, 5\)"):
        RuntimeConfig(largest_frame=(0, 5))
    with pytest.raises(ValueError, match=r"RuntimeConfig\.rtc: is 'on'; allowed: off, guided, trained"):
        RuntimeConfig(rtc="on")


def test_stage_times():
    with engine() as e:
        e.step(request())
        assert set(e.stage_ms) == {"vision", "prefix", "expert", "copies"}
        assert all(ms >= 0 for ms in e.stage_ms.values()) and e.stage_ms["expert"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_values": torch.zeros(4, 3, 3, 56, 56)}, "pixel_values: batch is 4; allowed: 1..3"),
        ({"pixel_values": torch.zeros(0, 3, 3, 56, 56)}, "pixel_values: batch is 0"),
        ({"pixel_values": torch.zeros(3, 2, 3, 56, 56)}, "pixel_values: must be (3, 3, 3, 56, 56)"),
        ({"pixel_values": torch.zeros(3, 3, 3, 56, 56, dtype=torch.uint8)}, "pixel_values: must be torch.float32"),
        ({"pixel_values": [1]}, "pixel_values: must be a torch.Tensor, is list"),
        ({"input_ids": torch.zeros(3, 25, dtype=torch.int64)}, "input_ids: must be (3, 1..24)"),
        ({"input_ids": torch.full((3, 24), 512)}, "input_ids: must lie in 0..511, has 512..512"),
        ({"input_ids": torch.full((3, 24), -1)}, "input_ids: must lie in 0..511"),
        ({"lang_lens": torch.tensor([5, 25, 1])}, "lang_lens: must lie in 1..24, has 1..25"),
        ({"lang_lens": torch.tensor([5, 0, 1])}, "lang_lens: must lie in 1..24, has 0..5"),
        ({"lang_lens": torch.tensor([5.0, 1.0, 1.0])}, "lang_lens: must be torch.int64"),
        ({"noise": torch.zeros(3, 8, 32)}, "noise: must be (3, 7, 32)"),
        ({"noise": torch.full((3, 7, 32), float("nan"))}, "noise: has NaN"),
        ({"noise": None, "seed": -1}, "seed: must be a whole number from 0 to 2^63 - 1, is -1"),
        ({"noise": None, "seed": 0.5}, "seed: must be a whole number"),
        ({"noise": None, "seed": torch.tensor([1, 2])}, "seed: must be (3,)"),
        ({"noise": None, "noise_scale": float("nan")}, "noise_scale: must be 0 or more"),
        ({"camera_mask": torch.ones(3, 2, dtype=torch.bool)}, "camera_mask: must be (3, 3)"),
        ({"state": torch.full((3, 32), float("inf"))}, "state: has NaN or infinite"),
        ({"state": torch.zeros(3, 14)}, "state: must be (3, 32)"),
    ],
)
def test_a_bad_request_is_refused_by_field(change, words):
    model = "pi0" if "state" in change else "pi05"
    with engine(model) as e:
        with pytest.raises(RequestError) as error:
            e.step(dataclasses.replace(request(model), **change))
        assert words in str(error.value)
        assert e.step(request(model)).shape == (3, 7, 32)  # the engine goes on


def frames(*sizes):
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]]


def test_frames_of_any_size_are_resized_by_the_engine():
    """As the engine was told to; a camera without a frame is masked."""
    given = frames((48, 64), (56, 56))[0]
    asked = request(batch=1, pixel_values=None, frames=[[*given, None]])
    for mode in ("pil", "lerobot"):
        config = EngineConfig(runtime=RuntimeConfig(resize=mode))
        with Engine(EngineArgs("pi05", PI05Args(random_geometry=GEOMETRY, seed=3), config)) as e:
            pixels = torch.stack([*(image_tensor(f, 56, mode) for f in given), missing_image(56)])[None]
            mask = torch.tensor([[True, True, False]])
            same = dataclasses.replace(asked, frames=None, pixel_values=pixels, camera_mask=mask)
            assert torch.equal(e.step(asked), e.step(same))
            others = dataclasses.replace(asked, frames=frames((48, 64), (48, 64), (48, 64)))
            assert (e.step(asked) - e.step(others)).abs().max() > 1e-3


FRAMES = frames((8, 9), (8, 9), (8, 9))


def test_looking_first_changes_nothing():
    with engine() as e:
        r = request(batch=1, pixel_values=None, frames=FRAMES)
        plain = e.step(r)
        e.look(FRAMES)
        assert torch.equal(e.step(r), plain)
        with pytest.raises(RequestError, match=r"frames\[0\]: must have 3 entries"):
            e.look(frames((8, 9)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": None}, "pixel_values: must be a torch.Tensor, or frames be given"),
        ({"frames": FRAMES * 4}, "frames: batch is 4; allowed: 1..3"),
        ({"frames": frames((8, 9))}, "frames[0]: must have 3 entries, one a camera; has 1"),
        ({"frames": [FRAMES[0], [None, np.zeros((4, 4)), None]]}, "frames[1][1]: must be (height, width, 3) uint8 RGB"),
        ({"frames": [[torch.zeros(4, 4, 3), None, None]]}, "frames[0][0]: must be a NumPy array, is Tensor"),
        ({"frames": FRAMES, "camera_mask": torch.ones(1, 3, dtype=torch.bool)}, "camera_mask: frames say themselves"),
        ({"frames": FRAMES, "pixel_values": torch.zeros(1, 3, 3, 56, 56)}, "frames: pixel_values are given too"),
    ],
)
def test_bad_frames_are_refused_by_name(change, words):
    with engine() as e:
        with pytest.raises(RequestError) as error:
            e.step(dataclasses.replace(request(batch=1), **({"pixel_values": None} | change)))
        assert words in str(error.value)


def test_wrong_set_ups_are_refused():
    geometry = tiny("pi05")
    with pytest.raises(ValueError, match="plugin: 'pi06' is not known; known: pi05, pi0"):
        Engine(EngineArgs("pi06", PI05Args(random_geometry=geometry)))
    with pytest.raises(ValueError, match="'pi0' takes PI0Args, got PI05Args"):
        Engine(EngineArgs("pi0", PI05Args(random_geometry=geometry)))
    with pytest.raises(ValueError, match="'pi0' asked for, but random_geometry is a 'pi05'"):
        Engine(EngineArgs("pi0", PI0Args(random_geometry=geometry)))
    with pytest.raises(ValueError, match="either checkpoint_dir or random_geometry"):
        PI05Args()
    with pytest.raises(ValueError, match="max_batch_size: must be at least 1"):
        PI05Args(random_geometry=geometry, max_batch_size=0)
    with pytest.raises(ValueError, match=r"num_inference_steps: must be 1\.\.50"):
        PI05Args(random_geometry=geometry, num_inference_steps=51)
    with pytest.raises(ValueError, match="target: is 'gpu'; allowed: cpu, cuda"):
        DeviceConfig(target="gpu")


@pytest.mark.parametrize("steps", [1, 50])
def test_every_number_of_steps_up_to_fifty(steps):
    with engine(num_inference_steps=steps, batch=1) as e:
        assert torch.isfinite(e.step(request(batch=1))).all()


def test_a_checkpoint_that_asks_for_more_steps_is_refused(tiny_checkpoint):
    many = PI05Args(checkpoint_dir=tiny_checkpoint(), checkpoint_settings={"steps": 51})
    with pytest.raises(ValueError, match=r"the checkpoint asks for 51; allowed: 1\.\.50"):
        Engine(EngineArgs("pi05", many))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_says_so():
    with pytest.raises(ValueError, match="sees no CUDA GPU; use target='cpu'"):
        DeviceConfig(target="cuda")


def test_wrong_request_type_and_closed_engine():
    e = engine()
    with pytest.raises(RequestError, match="must be PI05Request, is PI0Request"):
        e.step(request("pi0"))
    e.close()
    e.close()
    with pytest.raises(RuntimeError, match="closed"):
        e.step(request())
    with pytest.raises(RuntimeError, match=r"Engine\.look: the engine is closed"):
        e.look(FRAMES)


@pytest.mark.parametrize("model", MODELS)
def test_from_a_checkpoint_in_bf16(model, tiny_checkpoint):
    """The same weights in bf16 give nearly the same actions; vision dtype is per model."""
    folder = tiny_checkpoint(model)
    half = EngineConfig(DeviceConfig(params_dtype=torch.bfloat16))
    with (
        Engine(EngineArgs(model, ARGS[model](checkpoint_dir=folder))) as full,
        Engine(EngineArgs(model, ARGS[model](checkpoint_dir=folder), half)) as bf16,
    ):
        r = request(model, 1)
        r = dataclasses.replace(r, noise=torch.randn(1, 50, 32))
        a, b = full.step(r), bf16.step(r)
        assert 0 < (a - b).norm() / a.norm() < 5e-2
        vision = bf16._runner._model.vision.layers[0].mlp.fc1.weight.dtype
        assert vision == (torch.float32 if model == "pi0" else torch.bfloat16)


def test_what_a_checkpoint_leaves_open_can_be_said():
    """openpi writes no chunk length down."""
    folder = Path(__file__).parent / "data" / "orbax" / "pi05"
    pytest.importorskip("tensorstore")
    e = Engine(EngineArgs("pi05", PI05Args(checkpoint_dir=folder, checkpoint_settings={"geometry": {"chunk": 6}})))
    g = e.geometry
    assert g.chunk == 6
    size = g.vision.image
    r = PI05Request(
        pixel_values=torch.zeros(1, e.cameras, 3, size, size),
        input_ids=torch.ones(1, 4, dtype=torch.int64),
        lang_lens=torch.tensor([4]),
    )
    assert e.step(r).shape == (1, 6, 32)
    e.close()
