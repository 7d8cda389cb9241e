# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that must not load: each refused with the file, the key and the reason."""

import json

import pytest
import torch
from folders import copy, edit_json, edit_stats, edit_tensors, make
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.checkpoint import CheckpointError, load_checkpoint
from pi_vla_ros.checkpoint.names import OUTER, on_disk
from pi_vla_ros.checkpoint.safetensors import read_headers

LAYER = OUTER + on_disk("language.layers.1.mlp.up_proj.weight")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "c", "pi05")


@pytest.fixture
def folder(made, tmp_path):
    return copy(made, tmp_path / "c")


def refused(folder, *words, settings=None):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, settings)
    for word in (str(folder), *words):
        assert word in str(caught.value), f"{word!r} not in: {caught.value}"


# --- files
# --------------------------------------------------------------------------------------------------


def test_wrong_paths(tmp_path, folder):
    refused(tmp_path / "nowhere", "does not exist")
    refused(folder / "config.json", "is a file; give the folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not a π0 / π0.5 checkpoint", "nothing")


@given(share=st.floats(0, 0.999))
@settings(deadline=None, max_examples=30)
def test_a_truncated_file_is_refused_wherever_it_ends(made, tmp_path_factory, share):
    folder = copy(made, tmp_path_factory.mktemp("cut") / "c")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    refused(folder, "model.safetensors", "truncated")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_garbage_is_never_anything_but_refused(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("garbage") / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_headers(file)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "F32", "a"]), x)
        ),
        max_leaves=12,
    )
)
@settings(deadline=None)
def test_a_strange_header_is_refused(tmp_path_factory, header):
    file = tmp_path_factory.mktemp("header") / "model.safetensors"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_headers(file)


def test_a_longer_file_is_refused(folder):
    with (folder / "model.safetensors").open("ab") as f:
        f.write(b"more")
    refused(folder, "model.safetensors", "damaged")


def test_missing_weights_and_shards(folder):
    (folder / "model.safetensors").rename(folder / "shard-1.safetensors")
    refused(folder, "has no weights")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {LAYER: "../../etc/passwd"}}))
    refused(folder, "must be a file in the same folder")
    index.write_text(json.dumps({"weight_map": {LAYER: "shard-1.safetensors", "other": "shard-1.safetensors"}}))
    refused(folder, "weight_map: not in the file that it names: other")
    index.write_text(json.dumps({"weight_map": {LAYER: "shard-2.safetensors"}}))
    refused(folder, "shard-2.safetensors", "cannot be read")
    index.write_text("{")
    refused(folder, "index.json", "not valid JSON")


# --- tensors
# ------------------------------------------------------------------------------------------------


def test_wrong_tensors_are_all_listed_by_name(folder):
    def change(tensors):
        del tensors[LAYER]
        tensors["model.paligemma_with_expert.something_else"] = torch.zeros(3)
        tensors[OUTER + "action_in_proj.bias"] = torch.zeros(17)
        tensors[OUTER + "action_out_proj.weight"] = torch.zeros(32, 16, dtype=torch.int8)

    edit_tensors(folder / "model.safetensors", change)
    refused(
        folder,
        "missing (1):\n    language.layers.1.mlp.up_proj.weight",
        "unexpected (1):\n    model.paligemma_with_expert.something_else",
        "wrong shape (1):\n    action_in_proj.bias [17], the model has [16]",
        "wrong dtype (1):\n    action_out_proj.weight I8; allowed: float32, bfloat16, float16",
    )


@pytest.mark.parametrize("layer", [0, 1])
def test_a_missing_layer_is_noticed_with_and_without_our_key(folder, layer):
    def change(tensors):
        for name in list(tensors):
            if f"language_model.layers.{layer}." in name:
                del tensors[name]

    edit_tensors(folder / "model.safetensors", change)
    refused(folder, "missing (9)", f"language.layers.{layer}.self_attn.q_proj.weight")
    edit_json(folder / "config.json", lambda config: config.pop("pi_vla_ros"))
    heads = {"geometry": {"vision": {"heads": 2}}}
    refused(folder, "missing (9)", f"language.layers.{layer}.self_attn.q_proj.weight", settings=heads)


def test_a_published_size_with_fewer_layers_is_not_another_model(tmp_path):
    """Without our key, a stack as wide as Gemma 2B must have its 18 layers."""
    from pi_vla_ros.checkpoint.settings import GeometrySettings
    from pi_vla_ros.checkpoint.shapes import find_geometry
    from pi_vla_ros.checkpoint.weights import parameter_shapes
    from pi_vla_ros.model.geometry import PI05

    shapes = {n: s for n, s in parameter_shapes(PI05).items() if ".layers.17." not in n and ".layers.26." not in n}
    geometry, source = find_geometry(shapes, "pi05", GeometrySettings(), {}, tmp_path, ("gemma_2b", "gemma_300m"))
    assert geometry == PI05
    assert source["language.depth"] == "config.json" and source["vision.depth"] == "default"


def test_the_same_tensor_twice(folder):
    edit_tensors(folder / "model.safetensors", lambda t: t.update({LAYER.removeprefix(OUTER): t[LAYER].clone()}))
    refused(folder, "are the same tensor under two names")


def test_the_tensors_of_the_other_model(folder, tmp_path):
    edit_json(folder / "config.json", lambda config: config.update(type="pi0"))
    refused(folder, "config.json: type: is 'pi0', the tensors are those of 'pi05'")
    edit_tensors(folder / "model.safetensors", lambda t: [t.pop(n) for n in list(t) if "time_mlp" in n])
    refused(folder, "has neither time_mlp_in.weight (π0.5) nor state_proj.weight (π0)")


def test_an_impossible_geometry(folder):
    edit_json(folder / "config.json", lambda c: c["pi_vla_ros"]["geometry"]["vision"].update(heads=5))
    refused(folder, "its geometry is not possible: width (24) must be a multiple of heads (5)")


# --- config.json
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["act", "smolvla", "pi0_fast", "diffusion", "vqbet"])
def test_other_policies_are_refused_by_name(folder, policy):
    edit_json(folder / "config.json", lambda config: config.update(type=policy))
    refused(folder, f"config.json: type: is a '{policy}' policy; allowed: pi0, pi05")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"use_visual_memory": True}, "use_visual_memory: is set"),
        ({"use_proprioceptive_memory": True}, "use_proprioceptive_memory: is set"),
        ({"use_peft": True}, "use_peft: is set: the weights are an adapter"),
        ({"min_period": 0.1}, "min_period: is 0.1; allowed: 0.004"),
        ({"n_obs_steps": 2}, "n_obs_steps: is 2; allowed: 1"),
        ({"chunk_size": 0, "pi_vla_ros": {}}, "chunk_size: must be at least 1, is 0"),
        ({"num_inference_steps": "ten"}, "num_inference_steps: must be a whole number, is 'ten'"),
        ({"input_features": {"observation.state": {"type": "STATE", "shape": [8]}}}, "has no camera"),
        (
            {"input_features": {"observation.images.a": 5}},
            "input_features: observation.images.a: must have a type and a shape",
        ),
        (
            {"output_features": {"action": {"type": "ACTION", "shape": [33]}}},
            "action: shape must be [1 to 32], is [33]",
        ),
        ({"pi_vla_ros": {"geometri": {}}}, "pi_vla_ros.geometri: unknown key; did you mean 'geometry'?"),
        (
            {"pi_vla_ros": {"geometry": {"vision": {"heads": "x"}}}},
            "pi_vla_ros.geometry.vision.heads: must be a whole number",
        ),
        ({"pi_vla_ros": 3}, "pi_vla_ros"),
        ({"rtc_training_max_delay": -1}, "rtc_training_max_delay: must be 0..3, is -1"),
        ({"rtc_training_max_delay": 50}, "rtc_training_max_delay: must be 0..3, is 50"),
        ({"rtc_training_max_delay": "5"}, "rtc_training_max_delay: must be a whole number, is '5'"),
    ],
)
def test_wrong_keys_of_config(folder, change, words):
    edit_json(folder / "config.json", lambda config: config.update(change))
    refused(folder, "config.json", words)


def test_an_adapter_beside_the_weights(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter_config.json: the weights are an adapter")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["type", "shape", "a"]), x),
        max_leaves=5,
    ),
    st.data(),
)
@settings(deadline=None, max_examples=80)
def test_any_value_of_any_key_loads_or_is_refused(made, tmp_path_factory, value, data):
    folder = copy(made, tmp_path_factory.mktemp("wild") / "c")
    file = folder / data.draw(st.sampled_from(["config.json", "policy_preprocessor.json", "policy_postprocessor.json"]))
    content = json.loads(file.read_text())
    place = content
    while True:  # walk down to a random place
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    file.write_text(json.dumps(content))
    try:
        load_checkpoint(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)


# --- statistics
# ---------------------------------------------------------------------------------------------

Q99 = "observation.state.q99"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t[Q99].fill_(float("nan")), "observation.state: q99: is not finite in dimensions 0, 1, 2"),
        (
            lambda t: t["action.q01"].__setitem__(3, float("inf")),
            "action: q01: is not finite in dimensions 3",
        ),
        (lambda t: t[Q99].copy_(t["observation.state.q01"]), "q99 - q01 is 0 in dimensions 0, 1"),
        (lambda t: t[Q99].__setitem__(2, -99.0), "q99 - q01 is negative in dimensions 2"),
        (lambda t: t.update({Q99: t[Q99][:5].clone()}), "q99: has 5 entries, the feature has 8 dimensions"),
        (lambda t: t.update({Q99: torch.ones(9)}), "q99: has 9 entries, the feature has 8 dimensions"),
        (lambda t: t.update({Q99: torch.ones(8, 1)}), "must be a list of numbers, has shape [8, 1]"),
        (lambda t: t.pop(Q99), "q99: is missing; normalisation 'quantiles' needs q01, q99"),
    ],
)
def test_wrong_statistics(folder, change, words):
    edit_stats(folder, change)
    refused(folder, "policy_p", words)


def test_a_constant_dimension_can_be_accepted(folder):
    edit_stats(folder, lambda t: t[Q99].copy_(t["observation.state.q01"]))
    assert load_checkpoint(folder, {"constant_dims": True}).constant_dims


def step(name, change):
    def edit(data):
        entry = next(s for s in data["steps"] if s["registry_name"] == name)
        change(data, entry)

    return edit


@pytest.mark.parametrize(
    "change, words",
    [
        (
            step("tokenizer_processor", lambda d, s: s.update(registry_name="new_step")),
            "step 'new_step' is not known",
        ),
        (step("tokenizer_processor", lambda d, s: d["steps"].append(s)), "occurs twice"),
        (
            step("normalizer_processor", lambda d, s: s.update(state_file="gone.safetensors")),
            "gone.safetensors: cannot be read",
        ),
        (
            step("normalizer_processor", lambda d, s: s.update(state_file="../x.safetensors")),
            "state_file: must name a file in the same folder",
        ),
        (
            step("normalizer_processor", lambda d, s: s["config"]["norm_map"].update(STATE="LOG")),
            "norm_map: STATE: is 'LOG'; allowed: IDENTITY",
        ),
        (
            step("normalizer_processor", lambda d, s: (d["steps"].remove(s), d["steps"].append(s))),
            "must come before",
        ),
        (
            step("tokenizer_processor", lambda d, s: s["config"].update(max_length=-3)),
            "max_length: must be at least 1",
        ),
        (lambda d: d.update(steps={}), "steps: must be a list"),
        (lambda d: d["steps"].insert(0, 5), "steps[0]: must be a mapping"),
    ],
)
def test_wrong_pipelines(folder, change, words):
    edit_json(folder / "policy_preprocessor.json", change)
    refused(folder, words)


def test_relative_actions_without_the_state(folder):
    refused(folder, "does not fit 8 state, 8 action dims", settings={"relative": [True] * 9})
