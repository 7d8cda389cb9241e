# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Random models behave like models, and made checkpoints fit their robot."""

import json

import numpy as np
import pytest
import torch
from folders import make, small
from safetensors.torch import load_file

from pi_vla_ros.checkpoint import load_checkpoint, load_model, random_model
from pi_vla_ros.checkpoint.names import OUTER
from pi_vla_ros.checkpoint.write import new_folder
from pi_vla_ros.cli.make_checkpoint import main, make_checkpoint, parse_geometry
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import PI0, PI05, tiny
from pi_vla_ros.processing.processor import Processor
from pi_vla_ros.robot import load_robot, robot_names

MODELS = ["pi05", "pi0"]
PROMPTS = [
    "pick up the red block",
    "open the drawer",
    "fold the towel",
    "put the cup in the box",
    "wipe the plate",
]


@torch.no_grad()
def run(model, processor, image_seeds, states, prompts, noise):
    """Actions for every observation, [N, H, 32]."""
    out = []
    for seed, state, prompt in zip(image_seeds, states, prompts, strict=True):
        random = np.random.default_rng(seed)
        colour = random.integers(0, 256, (3, 1, 1, 3))
        images = np.clip(colour + random.normal(0, 30, (3, 56, 56, 3)), 0, 255).astype(np.uint8)
        inputs = processor.prepare(dict(zip(processor.cameras, images, strict=True)), state, prompt)
        x, valid = model.embed_prefix(inputs.pixel_values, inputs.camera_mask, inputs.input_ids, inputs.lang_lens)
        out.append(sample(model, model.prefix(x, valid), noise, inputs.state)[0])
    return torch.stack(out)


@pytest.mark.parametrize("name", MODELS)
def test_actions_are_moderate_and_depend_on_everything(name, tmp_path):
    folder = make_checkpoint(tmp_path / "c", tiny(name), "sim")
    checkpoint = load_checkpoint(folder)
    model, processor, robot = load_model(checkpoint), Processor(checkpoint), load_robot("sim")
    low, high = np.array([j.position for j in robot.joints]).T
    random = np.random.default_rng(0)
    n = len(PROMPTS)
    states = random.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low), (n, 8))
    noise = 0.1 * torch.randn(1, 50, 32, generator=torch.manual_seed(0))
    home, task = [robot.home] * n, [PROMPTS[0]] * n

    def spread(actions):  # how much the actions differ between observations
        return actions[..., :8].std(0).mean()

    every = run(model, processor, range(n), states, PROMPTS, noise)
    assert 0.25 <= every.std() <= 0.75
    assert every.abs().max() < 2.5
    assert spread(run(model, processor, [0] * n, home, PROMPTS, noise)) > 0.05
    assert spread(run(model, processor, [0] * n, states, task, noise)) > 0.05
    assert spread(run(model, processor, range(n), home, task, noise)) > 0.05
    targets = processor.finish(every[0], robot.home)  # inside the limits, around home
    assert (targets >= low).all() and (targets <= high).all()


@pytest.mark.parametrize("name", MODELS)
def test_seeded(name):
    first, again, other = (dict(random_model(small(name), seed=s).state_dict()) for s in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)
    assert first.keys() == again.keys()
    assert all(t.std() > 0 for t in first.values())  # also what training starts at a constant


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    a, b = (make(tmp_path / name, "pi0", seed=3) for name in "ab")
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    assert all((a / f).read_bytes() == (b / f).read_bytes() for f in files)


@pytest.mark.parametrize("robot", robot_names())
@pytest.mark.parametrize("name", MODELS)
def test_every_robot_gets_a_checkpoint_that_fits_it(robot, name, tmp_path):
    config = load_robot(robot)
    checkpoint = load_checkpoint(make(tmp_path / "c", name, robot=robot))
    assert checkpoint.cameras == tuple(config.cameras)
    assert checkpoint.state_dim == checkpoint.action_dim == len(config.joints)
    assert checkpoint.action_names == tuple(config.joint_names)
    processor = Processor(checkpoint, config)
    scale, offset = np.array([(j.state.scale, j.state.offset) for j in config.joints]).T
    inputs = processor.prepare(
        {config_slot: np.zeros((9, 9, 3), np.uint8) for config_slot in config.cameras},
        scale * config.home + offset,
        "x",
    )
    for extreme in (-2.4, 2.4):  # what random weights say at most
        actions = processor.finish(np.full((1, 32), extreme), inputs.raw_state)[0]
        for joint, action in zip(config.joints, actions, strict=True):
            target = joint.action.scale * action + joint.action.offset
            low, high = joint.position if joint.action.kind == "position" else (-joint.velocity, joint.velocity)
            assert low - 1e-6 <= target <= high + 1e-6, joint.name


def test_the_folder_is_in_lerobots_format(tmp_path):
    folder = make(tmp_path / "c", "pi05")
    assert all(name.startswith(OUTER) for name in load_file(folder / "model.safetensors"))
    names = [s["registry_name"] for s in json.loads((folder / "policy_preprocessor.json").read_text())["steps"]]
    assert names == [
        "rename_observations_processor",
        "to_batch_processor",
        "relative_actions_processor",
        "normalizer_processor",
        "pi05_prepare_state_tokenizer_processor_step",
        "tokenizer_processor",
        "device_processor",
    ]
    state = load_file(folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    assert sorted(state) == ["action.q01", "action.q99", "observation.state.q01", "observation.state.q99"]
    assert all(t.dtype == torch.float32 and t.shape == (8,) for t in state.values())
    assert (folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors").is_file()


def test_the_command(tmp_path, capsys):
    geometry = '{"chunk": 6, "vision": {"depth": 1}, "language": {"depth": 1}, "expert": {"depth": 1}}'
    arguments = [
        str(tmp_path / "c"),
        "--model",
        "pi0",
        "--geometry",
        geometry,
        "--dtype",
        "bf16",
        "--prefix",
        "bare",
    ]
    assert main([*arguments, "--robot", "ur5e", "--seed", "5"]) == 0
    checkpoint = load_checkpoint(tmp_path / "c")
    assert checkpoint.geometry.chunk == 6 and checkpoint.geometry.vision.depth == 1
    assert set(checkpoint.weights.dtypes().values()) == {"bfloat16"}
    with pytest.raises(SystemExit):
        main(arguments)
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, words",
    [
        ("large", "neither 'tiny' nor 'full' nor JSON"),
        ('{"chunks": 3}', "geometry: must be a JSON mapping with some of action_dim"),
        ('{"vision": {"depth": "two"}}', "geometry.vision.depth: must be like 2, is 'two'"),
        ('{"vision": 3}', "geometry.vision: must be like"),
    ],
)
def test_wrong_geometries(text, words):
    with pytest.raises(ValueError, match=words):
        parse_geometry("pi05", text)


def test_geometries():
    assert parse_geometry("pi05", "full") == PI05 and parse_geometry("pi0", "full") == PI0
    assert parse_geometry("pi0", "tiny") == tiny("pi0")


def test_an_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "c") as draft:
        (draft / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
