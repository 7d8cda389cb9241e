# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""openpi's folders, PyTorch and JAX: the same weights to the bit, their statistics, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import edit_json, edit_tensors, make, small
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_layout import add_lora, jax_tree, write_tree
from safetensors.numpy import load_file

from pi_vla_ros.checkpoint import CheckpointError, load_checkpoint, load_model
from pi_vla_ros.checkpoint.names import LM_HEAD, OUTER, UNUSED, on_disk
from pi_vla_ros.model.flow import sample
from pi_vla_ros.processing.processor import Processor
from pi_vla_ros.processing.prompt import PromptStyle
from pi_vla_ros.robot import SLOTS

DATA = Path(__file__).parent / "data" / "orbax"
HEADS = {"geometry": {"vision": {"heads": 2}}}


def norm_stats(dims=8, padded=0):
    random = np.random.default_rng(0)
    stats = {}
    for key in ("state", "actions"):
        low = random.normal(size=dims)
        rows = {"mean": low + 1, "std": random.uniform(0.5, 1, dims), "q01": low, "q99": low + 2}
        stats[key] = {name: [*row.tolist(), *[0.0] * padded] for name, row in rows.items()}
    return {"norm_stats": stats}


def write_stats(folder, asset, stats):
    (folder / "assets" / asset).mkdir(parents=True)
    (folder / "assets" / asset / "norm_stats.json").write_text(json.dumps(stats))


# --- PyTorch ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["pi05", "pi0"])
def torch_folder(request, tmp_path):
    """As openpi's converter writes it: bare names, lm_head instead of the embedding, an unused head."""
    made = make(tmp_path / "made", request.param)
    folder = tmp_path / "openpi"
    folder.mkdir()
    shutil.copyfile(made / "model.safetensors", folder / "model.safetensors")

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix(OUTER)] = tensors.pop(name)
        tensors[LM_HEAD] = tensors.pop(on_disk("embed_tokens.weight"))
        tensors[UNUSED] = torch.zeros(7, 7)

    edit_tensors(folder / "model.safetensors", change)
    config = {"action_dim": 32, "action_horizon": 4, "paligemma_variant": "gemma_2b", "precision": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    write_stats(folder, "trossen", norm_stats())
    return folder, made


def test_pytorch(torch_folder):
    folder, made = torch_folder
    checkpoint = load_checkpoint(folder, HEADS)
    model, twin = load_model(checkpoint).state_dict(), load_model(load_checkpoint(made)).state_dict()
    assert all(torch.equal(model[name], twin[name]) for name in twin)
    pi05 = checkpoint.geometry.model == "pi05"
    assert (checkpoint.format, checkpoint.cameras, checkpoint.resize) == ("openpi", SLOTS, "pil")
    assert checkpoint.geometry.chunk == 4 and checkpoint.geometry_source["chunk"] == "config.json"
    assert checkpoint.prompt_style == PromptStyle("pi05" if pi05 else "pi0")
    assert (checkpoint.state_dim, checkpoint.action_dim, checkpoint.open_dims) == (8, 8, False)
    action = checkpoint.normalization.action
    assert (action.mode, action.formula, action.eps) == ("quantiles" if pi05 else "mean_std", "openpi", 1e-6)
    stats = norm_stats()["norm_stats"]["actions"]
    assert np.array_equal(action.a, stats["q01" if pi05 else "mean"])
    assert any("relative: taken to be none" in note for note in checkpoint.notes)


def test_what_openpi_does_not_write_down_can_be_said_in_a_file(torch_folder):
    folder, _ = torch_folder
    told = {
        "relative": [True] * 7 + [False],
        "prompt": "pi0",
        "cameras": ["a", "b"],
        "normalization": "mean_std",
    }
    (folder / "pi_vla_ros.json").write_text(json.dumps(HEADS | told))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.relative.mask == (True,) * 7 + (False,)
    assert checkpoint.prompt_style.kind == "pi0" and checkpoint.cameras == ("a", "b")
    assert checkpoint.normalization.state.mode == "mean_std"
    assert load_checkpoint(folder, {"cameras": ["c"]}).cameras == ("c",)  # the argument wins
    (folder / "pi_vla_ros.json").write_text(json.dumps({"relativ": []}))
    with pytest.raises(CheckpointError, match=r"pi_vla_ros\.json: relativ: unknown key; did you mean 'relative'"):
        load_checkpoint(folder)


def test_an_asset_must_be_chosen(torch_folder):
    folder, _ = torch_folder
    write_stats(folder, "physical-intelligence/libero", norm_stats(7))
    with pytest.raises(CheckpointError, match="several robots: physical-intelligence/libero, trossen; choose one"):
        load_checkpoint(folder, HEADS)
    assert load_checkpoint(folder, HEADS | {"assets": "physical-intelligence/libero"}).action_dim == 7
    with pytest.raises(CheckpointError, match="has no statistics for 'ur5e'; it has physical-intelligence/libero, tr"):
        load_checkpoint(folder, HEADS | {"assets": "ur5e"})


def test_padded_statistics_leave_the_dimensions_open(torch_folder):
    folder, _ = torch_folder
    shutil.rmtree(folder / "assets")
    write_stats(folder, "base", norm_stats(14, padded=18))
    checkpoint = load_checkpoint(folder, HEADS)
    assert (checkpoint.state_dim, checkpoint.action_dim, checkpoint.open_dims) == (14, 14, True)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("actions"), "norm_stats.actions: is missing"),
        (lambda s: s["state"].update(q99=None, std=None), "is missing; normalisation"),
        (lambda s: s["state"].update(q01=s["state"]["q99"], std=[0.0] * 8), "is 0 in dimensions 0, 1"),
        (
            lambda s: s["state"].update(q99=[float("nan")] * 8, std=[float("nan")] * 8),
            "is not finite in dimensions 0",
        ),
        (lambda s: s["state"].update(q99=[1e9] * 7, std=[1.0] * 7), "has 8 entries, .* has 7"),
        (lambda s: s["state"].update(q99=["x"] * 8, std=["x"] * 8), "must be a list of numbers"),
    ],
)
def test_wrong_statistics(torch_folder, change, words):
    folder, _ = torch_folder
    edit_json(folder / "assets/trossen/norm_stats.json", lambda data: change(data["norm_stats"]))
    with pytest.raises(CheckpointError, match=f"norm_stats.json.*{words}"):
        load_checkpoint(folder, HEADS)


def test_openpi_is_processed_as_openpi_does(torch_folder):
    folder, made = torch_folder
    checkpoint = load_checkpoint(folder, HEADS | {"tokenizer": str(made / "tokenizer")})
    processor = Processor(checkpoint)
    state = np.linspace(-1, 1, 8)
    stats = norm_stats()["norm_stats"]
    image = np.zeros((9, 9, 3), np.uint8)
    inputs = processor.prepare({"base_0_rgb": image}, state, "pick_up\nthe bowl")
    s = {name: np.array(row) for name, row in stats["state"].items()}
    if checkpoint.geometry.model == "pi05":
        normal = (state - s["q01"]) / (s["q99"] - s["q01"] + 1e-6) * 2.0 - 1.0
        bins = np.digitize(normal, np.linspace(-1, 1, 257)[:-1]) - 1
        text = [f"Task: pick up the bowl, State: {' '.join(map(str, bins))};\nAction: "]
    else:
        normal = (state - s["mean"]) / (s["std"] + 1e-6)
        assert np.array_equal(inputs.state[0, :8].numpy(), normal.astype(np.float32))
        text = ["pick up the bowl", "\n"]
    assert inputs.input_ids[0, : inputs.lang_lens.item()].tolist() == processor.tokenizer.encode(*text)
    a = {name: np.array(row) for name, row in stats["actions"].items()}
    y = np.random.default_rng(0).normal(size=(4, 32))
    if checkpoint.geometry.model == "pi05":
        expected = (y[:, :8] + 1.0) / 2.0 * (a["q99"] - a["q01"] + 1e-6) + a["q01"]
    else:
        expected = y[:, :8] * (a["std"] + 1e-6) + a["mean"]
    assert np.array_equal(processor.finish(y, state), expected)


# --- JAX ----------------------------------------------------------------------------------------------------

pytest_jax = pytest.mark.skipif(
    __import__("importlib").util.find_spec("tensorstore") is None, reason="tensorstore is not installed"
)


def same(checkpoint, weights):
    found = load_model(checkpoint).state_dict()
    assert found.keys() == weights.keys()
    for name, expected in weights.items():
        assert torch.equal(found[name], torch.from_numpy(np.ascontiguousarray(expected))), name


@pytest_jax
@pytest.mark.parametrize("model", ["pi05", "pi0"])  # from training, in zarr 2; not from training, in zarr 3
@pytest.mark.parametrize("inside", [False, True])
def test_what_orbax_itself_wrote(model, inside):
    folder = DATA / model / "params" if inside else DATA / model
    checkpoint = load_checkpoint(folder, {"geometry": {"chunk": 4}})
    assert checkpoint.format == "openpi-jax" and checkpoint.geometry.vision.heads == 2
    assert checkpoint.geometry_source["vision.heads"] == "tensor shapes"
    same(checkpoint, load_file(DATA / f"{model}.safetensors"))


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def twin(request):
    weights = load_file(DATA / f"{request.param}.safetensors")
    return request.param, weights, jax_tree(weights, request.param, (2, 2))


@pytest_jax
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("ocdbt", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_to_store_a_tree(twin, tmp_path, value, ocdbt, dtype):
    _, weights, tree = twin
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        weights = {name: x.astype(bfloat16).astype(np.float32) for name, x in weights.items()}
        tree = {path: x.astype(bfloat16) for path, x in tree.items()}
    write_tree(tmp_path / "c" / "params", tree, value, ocdbt)
    checkpoint = load_checkpoint(tmp_path / "c")
    assert set(checkpoint.weights.dtypes().values()) == {dtype}
    same(checkpoint, weights)


@pytest_jax
def test_lora_is_merged(twin, tmp_path):
    model, _, tree = twin
    adapted, merged = add_lora(tree, 3, np.random.default_rng(0))
    write_tree(tmp_path / "adapted/params", adapted, True)
    write_tree(tmp_path / "merged/params", merged, True)
    a, b = (load_model(load_checkpoint(tmp_path / name)).state_dict() for name in ("adapted", "merged"))
    for name in b:
        assert torch.allclose(a[name], b[name], rtol=0, atol=1e-6), name
    assert not torch.allclose(
        b["expert.layers.0.self_attn.o_proj.weight"],
        load_model_twin(model, "expert.layers.0.self_attn.o_proj.weight"),
    )


def load_model_twin(model, name):
    return torch.from_numpy(load_file(DATA / f"{model}.safetensors")[name])


@pytest_jax
@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_a_golden_model_in_jax_layout_gives_golden_actions(model, tmp_path):
    golden = Golden(f"{model}_float32")
    weights = {name: x.numpy() for name, x in golden.weights.items()}
    write_tree(tmp_path / "c/params", jax_tree(weights, model, (4, 8)), True)
    told = {"geometry": {"chunk": 6, "prompt_len": golden.geometry.prompt_len}}
    checkpoint = load_checkpoint(tmp_path / "c", told)
    assert checkpoint.geometry == golden.geometry
    net = load_model(checkpoint)
    with torch.no_grad():
        x, valid = net.embed_prefix(golden.images, golden.cameras, golden.given["tokens"], golden.lengths)
        state = golden.given["state"] if model == "pi0" else None
        actions = sample(net, net.prefix(x, valid), golden.given["noise"], state)
    assert (actions - golden.expected["actions"]).abs().max() <= 5e-5


@pytest_jax
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("action_in_proj/bias"), r"missing \(1\):\n    action_in_proj\.bias"),
        (
            lambda t: t.update({"extra/kernel": np.zeros((2, 2), np.float32)}),
            r"unexpected \(1\):\n    extra/kernel",
        ),
        (
            lambda t: t.update({"action_in_proj/bias": np.zeros(9, np.float32)}),
            r"action_in_proj\.bias \[9\], the model has \[16\]",
        ),
        (
            lambda t: t.update({"action_in_proj/bias": np.zeros(16, np.int32)}),
            r"action_in_proj\.bias int32; allowed",
        ),
        (
            lambda t: t.update({"PaliGemma/llm/layers/attn/q_einsum/lora_a": np.zeros((2, 2, 16, 3), np.float32)}),
            "LoRA needs lora_a, lora_b",
        ),
        (
            lambda t: t.update(
                {
                    "PaliGemma/llm/layers/mlp/linear_lora_a": np.zeros((2, 32, 3), np.float32),
                    "PaliGemma/llm/layers/mlp/linear_lora_b": np.zeros((2, 4, 16), np.float32),
                }
            ),
            "does not fit the weight",
        ),
        (
            lambda t: t.update({"PaliGemma/llm/layers/attn/kv_einsum/w": np.zeros((2, 3, 1, 16, 8), np.float32)}),
            r"kv_einsum\.w.*shape \[2, 3, 1, 16, 8\]",
        ),
    ],
)
def test_wrong_trees(tmp_path, change, words):
    tree = jax_tree(load_file(DATA / "pi05.safetensors"), "pi05", (2, 2))
    change(tree)
    write_tree(tmp_path / "c/params", tree, False)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "c")


@pytest_jax
@given(st.data())
@settings(deadline=None, max_examples=20)
def test_a_damaged_tree_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tree") / "c"
    shutil.copytree(DATA / "pi05", folder)
    file = data.draw(
        st.sampled_from(
            [
                f
                for f in sorted((folder / "params").rglob("*"))
                if f.name == "manifest.ocdbt" or f.parent.name == "d" or f.name == "_METADATA"
            ]
        )
    )
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * data.draw(st.floats(0, 0.95)))])
    try:
        model = load_model(load_checkpoint(folder))
    except CheckpointError as error:
        assert str(folder) in str(error)
    else:  # a file that nothing reads, such as one process's own copy
        weights = load_file(DATA / "pi05.safetensors")
        assert all(torch.equal(model.state_dict()[n], torch.from_numpy(w)) for n, w in weights.items())


def test_without_tensorstore_the_message_says_what_to_install(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="JAX checkpoints are read with tensorstore: pip install tensorstore"):
        load_checkpoint(DATA / "pi05")


def test_small_is_what_the_data_is():
    assert small("pi05").vision.width == 24
