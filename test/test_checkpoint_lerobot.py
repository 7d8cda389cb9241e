# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LeRobot folders of every version: the same weights, and what they say of processing."""

import json

import numpy as np
import pytest
import torch
from folders import copy, edit_json, edit_tensors, make, small
from golden import NAMES, Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pi_vla_ros.checkpoint import CheckpointError, load_checkpoint, load_model, random_model
from pi_vla_ros.checkpoint.names import LM_HEAD, OUTER, UNUSED, canonical, on_disk
from pi_vla_ros.checkpoint.weights import parameter_shapes
from pi_vla_ros.checkpoint.write import new_folder, write_checkpoint
from pi_vla_ros.model.flow import sample
from pi_vla_ros.model.geometry import PI0, PI05
from pi_vla_ros.model.pi import parameter_dtype
from pi_vla_ros.processing.normalize import Normalization, Transform
from pi_vla_ros.processing.prompt import PromptStyle

EMBED = on_disk("embed_tokens.weight")


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def made(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / request.param, request.param)


@pytest.fixture
def folder(made, tmp_path):
    return copy(made, tmp_path / "checkpoint")


def model_name(folder):
    return json.loads((folder / "config.json").read_text())["type"]


def same_weights(a, b):
    b = dict(b.state_dict())
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.pop(name)), name
    assert not b


# --- weights
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [PI05, PI0], ids=["pi05", "pi0"])
def test_the_name_table_can_be_inverted(geometry):
    names = parameter_shapes(geometry)
    for name in names:
        for prefix in ("", OUTER):
            assert canonical(prefix + on_disk(name)) == name
    assert len({on_disk(name) for name in names}) == len(names)


def test_names_on_disk_are_lerobots():
    for name in NAMES:
        golden = Golden(name)
        expected = {n.removeprefix(OUTER) for n in golden.stored} - {LM_HEAD, UNUSED} | {EMBED}
        assert {on_disk(n) for n in parameter_shapes(golden.geometry)} == expected


def test_a_made_checkpoint_has_the_random_models_weights(made):
    same_weights(load_model(load_checkpoint(made)), random_model(small(model_name(made))))


def test_the_model_is_ready_to_run_and_owns_its_memory(folder):
    model = load_model(load_checkpoint(folder))
    before = {name: p.clone() for name, p in model.named_parameters()}
    file = folder / "model.safetensors"
    with file.open("r+b") as f:
        f.seek(file.stat().st_size // 2)
        f.write(b"\xff" * (file.stat().st_size // 2))
    assert not model.training
    for name, p in model.named_parameters():
        assert not p.requires_grad and p.is_contiguous() and torch.equal(p, before[name])


@pytest.mark.parametrize("vision", [None, torch.float32])
def test_dtypes_follow_the_models_rule(made, vision):
    model = load_model(load_checkpoint(made), torch.bfloat16, vision)
    for name, p in model.named_parameters():
        assert p.dtype == parameter_dtype(name, torch.bfloat16, vision), name


def test_the_token_embedding_goes_where_it_is_wanted(folder):
    """Stored under its own name or as the language model's head; the rest goes to the other device."""
    whole = load_model(load_checkpoint(folder), torch.bfloat16)
    for change in (lambda tensors: None, tie):
        edit_tensors(folder / "model.safetensors", change)
        model = load_model(load_checkpoint(folder), torch.bfloat16, device="meta", table="cpu")
        where = {name: p.device.type for name, p in model.named_parameters()}
        assert {name for name, device in where.items() if device != "meta"} == {"embed_tokens.weight"}
        assert torch.equal(model.embed_tokens.weight, whole.embed_tokens.weight)


def rename(tensors, change):
    for name in list(tensors):
        tensors[change(name)] = tensors.pop(name)


def untie(tensors):
    """LeRobot >= 0.5: both are stored, and lm_head may be stale."""
    tensors[OUTER + LM_HEAD] = torch.full_like(tensors[OUTER + EMBED], 7.0)
    tensors[OUTER + UNUSED] = torch.zeros(5, 5)


def tie(tensors):
    """LeRobot 0.4 and openpi: only lm_head is stored."""
    tensors[OUTER + LM_HEAD] = tensors.pop(OUTER + EMBED)


def bare(tensors):
    rename(tensors, lambda name: name.removeprefix(OUTER))


def leftovers(tensors):
    """A π0.5 that was made from a π0."""
    if OUTER + "time_mlp_in.weight" in tensors:
        rename(tensors, lambda name: name.replace("time_mlp_", "action_time_mlp_"))
        tensors[OUTER + "state_proj.weight"] = torch.zeros(16, 32)
        tensors[OUTER + on_disk("expert.norm.weight")] = torch.zeros(16)
        tensors[OUTER + on_disk("expert.layers.1.input_layernorm.weight")] = torch.zeros(16)


@pytest.mark.parametrize(
    "changes", [[bare], [untie], [tie], [leftovers], [untie, leftovers, bare], [tie, bare]], ids=str
)
def test_every_way_to_name_the_same_weights(made, folder, changes):
    for change in changes:
        edit_tensors(folder / "model.safetensors", change)
    same_weights(load_model(load_checkpoint(folder)), load_model(load_checkpoint(made)))


@given(st.data())
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mixture_of_prefixes_order_and_shards(made, tmp_path_factory, data):
    folder = copy(made, tmp_path_factory.mktemp("shards") / "c")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict] = {}
    where = {}
    for name, tensor in tensors.items():
        name = name if data.draw(st.booleans()) else name.removeprefix(OUTER)
        shard = f"model-{data.draw(st.integers(1, 3)):05d}-of-00003.safetensors"
        shards.setdefault(shard, {})[name] = tensor
        where[name] = shard
    for shard, part in shards.items():
        save_file(part, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    same_weights(load_model(load_checkpoint(folder)), load_model(load_checkpoint(made)))


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("float32")])
def test_a_golden_checkpoint_gives_golden_actions(name, tmp_path):
    """LeRobot's weights and the config.json that it would write; only vision.heads must be told."""
    golden = Golden(name)
    save_file({n: t.contiguous() for n, t in golden.stored.items()}, tmp_path / "model.safetensors")
    images = {f"observation.images.image{i}": {"type": "VISUAL", "shape": [3, 224, 224]} for i in range(3)}
    config = {
        "type": golden.geometry.model,
        "input_features": images | {"observation.state": {"type": "STATE", "shape": [32]}},
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "chunk_size": 6,
        "tokenizer_max_length": golden.geometry.prompt_len,
        "something_new": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"vision\.heads: the vision tower is 48 wide"):
        load_checkpoint(tmp_path)
    checkpoint = load_checkpoint(tmp_path, {"geometry": {"vision": {"heads": 4}}})
    assert checkpoint.geometry == golden.geometry
    source = checkpoint.geometry_source
    assert source["vision.heads"] == "our key" and source["chunk"] == "config.json"
    assert source["language.width"] == source["expert.mlp"] == source["vision.image"] == "tensor shapes"
    model = load_model(checkpoint)
    with torch.no_grad():
        x, valid = model.embed_prefix(golden.images, golden.cameras, golden.given["tokens"], golden.lengths)
        state = golden.given["state"] if golden.geometry.model == "pi0" else None
        actions = sample(model, model.prefix(x, valid), golden.given["noise"], state)
    assert (actions - golden.expected["actions"]).abs().max() <= 5e-5


# --- what config.json and the pipelines say
# -----------------------------------------------------------------


def old(folder):
    """The files as LeRobot 0.4 writes them: no relative steps, other step numbers, no newer keys."""
    new = ("relative_actions_processor", "absolute_actions_processor")

    def pipeline(data):
        data["steps"] = [step for step in data["steps"] if step["registry_name"] not in new]

    for file in ("policy_preprocessor.json", "policy_postprocessor.json"):
        edit_json(folder / file, pipeline)

    def config(data):
        for key in ("use_relative_actions", "relative_exclude_joints", "action_feature_names"):
            del data[key]
        for key in ("prompt", "prompt_state_dims", "resize"):
            del data["pi_vla_ros"][key]

    edit_json(folder / "config.json", config)


def test_lerobot_04(folder):
    old(folder)
    checkpoint = load_checkpoint(folder)
    pi05 = checkpoint.geometry.model == "pi05"
    assert checkpoint.prompt_style == (PromptStyle("pi05", 32) if pi05 else PromptStyle("pi0_raw"))
    assert checkpoint.resize == "lerobot04"
    assert bool(checkpoint.notes) == pi05
    newer = load_checkpoint(folder, {"prompt_state_dims": 0, "resize": "lerobot"})
    assert newer.prompt_style.state_dims is None and newer.resize == "lerobot" and not newer.notes


def test_cameras_keep_their_order_and_empty_ones_come_last(folder):
    def change(config):
        features = config["input_features"]
        state = features.pop("observation.state")
        names = ["observation.images.wrist", "observation.state", "observation.images.image2"]
        config["input_features"] = {
            n: state if n.endswith("state") else {"type": "VISUAL", "shape": [3, 9, 9]} for n in names
        }
        config["empty_cameras"] = 2

    edit_json(folder / "config.json", change)
    assert load_checkpoint(folder).cameras == ("wrist", "image2", "empty_camera_0", "empty_camera_1")


def test_rename_map_and_norm_map_of_the_steps(folder):
    def change(data):
        for step in data["steps"]:
            if step["registry_name"] == "rename_observations_processor":
                step["config"]["rename_map"] = {"observation.images.top": "observation.images.base_0_rgb"}
            if "normalizer" in step["registry_name"]:
                step["config"]["norm_map"]["STATE"] = "IDENTITY"
                step["config"]["eps"] = 1e-3

    edit_json(folder / "policy_preprocessor.json", change)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.rename == {"top": "base_0_rgb"}
    assert checkpoint.normalization.state == Transform()
    assert checkpoint.normalization.action.mode != "identity"


def test_without_statistics_everything_is_identity(folder):
    for file in folder.glob("policy_*"):
        file.unlink()
    checkpoint = load_checkpoint(folder)
    assert checkpoint.normalization == Normalization()
    assert not checkpoint.open_dims  # eight joints, not 32 padded ones


def test_a_padded_base_model_leaves_the_dimensions_open(folder):
    for file in folder.glob("policy_*"):
        file.unlink()

    def change(config):
        config["input_features"]["observation.state"]["shape"] = [32]
        del config["output_features"]["action"]

    edit_json(folder / "config.json", change)
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.state_dim, checkpoint.action_dim, checkpoint.open_dims) == (32, 32, True)


@pytest.mark.parametrize("name", ["relative_actions_processor", "delta_actions_processor"])
def test_relative_actions(folder, name):
    def before(data):
        for step in data["steps"]:
            if step["registry_name"] == "relative_actions_processor":
                step["registry_name"] = name
                step["config"] = {
                    "enabled": True,
                    "exclude_joints": ["gripper"],
                    "action_names": [f"joint{i}" for i in range(7)] + ["Gripper.pos"],
                }

    def after(data):
        for step in data["steps"]:
            if step["registry_name"] == "absolute_actions_processor":
                step["config"] = {"enabled": True}

    edit_json(folder / "policy_preprocessor.json", before)
    with pytest.raises(CheckpointError, match="relative and absolute actions must be enabled together"):
        load_checkpoint(folder)
    edit_json(folder / "policy_postprocessor.json", after)
    assert load_checkpoint(folder).relative.mask == (True,) * 7 + (False,)


def test_statistics_are_read_to_the_bit(folder):
    checkpoint = load_checkpoint(folder)
    file = next(folder.glob("policy_preprocessor_step_*"))
    stats = load_file(file)
    first, second = ("q01", "q99") if checkpoint.geometry.model == "pi05" else ("mean", "std")
    for name, transform in (
        ("observation.state", checkpoint.normalization.state),
        ("action", checkpoint.normalization.action),
    ):
        assert np.array_equal(transform.a, stats[f"{name}.{first}"].double().numpy())
        assert np.array_equal(transform.b, stats[f"{name}.{second}"].double().numpy())


@given(
    changes=st.dictionaries(
        st.sampled_from(["steps", "chunk_size", "compile_model", "new_key", "license"]),
        st.none() | st.booleans(),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_unknown_and_missing_keys_are_tolerated(made, tmp_path_factory, changes):
    folder = copy(made, tmp_path_factory.mktemp("keys") / "c")

    def change(config):
        config.update({k: v for k, v in changes.items() if k != "chunk_size"})
        for key in ("num_inference_steps", "n_action_steps", "image_resolution", "dtype", "max_state_dim"):
            config.pop(key)

    edit_json(folder / "config.json", change)
    assert load_checkpoint(folder).steps == 10


def test_committed_actions_in_training(folder, tmp_path):
    """rtc_training_max_delay is π0.5's; our key wins."""
    assert load_checkpoint(folder).rtc_max_delay == 0
    edit_json(folder / "config.json", lambda config: config.update(rtc_training_max_delay=3))
    if model_name(folder) == "pi0":
        with pytest.raises(
            CheckpointError, match=r"rtc_training_max_delay: is 3; only π0\.5 is trained with committed"
        ):
            load_checkpoint(folder)
        return
    assert load_checkpoint(folder).rtc_max_delay == 3
    assert load_checkpoint(folder, {"rtc_training_max_delay": 2}).rtc_max_delay == 2
    with new_folder(tmp_path / "written") as draft:
        write_checkpoint(load_checkpoint(folder), draft, None)
    assert load_checkpoint(tmp_path / "written").rtc_max_delay == 3
