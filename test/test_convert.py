# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""convert and inspect: from any format to one that needs no telling, and what is said about it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import edit_json, edit_tensors, make
from test_checkpoint_openpi import DATA, norm_stats, pytest_jax, torch_folder, write_stats  # noqa: F401

from pi_vla_ros.checkpoint import load_checkpoint, load_model
from pi_vla_ros.checkpoint import write as writer
from pi_vla_ros.cli import convert as convert_command
from pi_vla_ros.cli.convert import read_set
from pi_vla_ros.cli.inspect_checkpoint import main as inspect

CHUNK = ["--set", "geometry.chunk=4", "--set", "geometry.vision.heads=2"]


def convert(*arguments):
    return convert_command.main([str(a) for a in arguments])


def equal(a, b):
    a, b = (load_model(load_checkpoint(x) if not hasattr(x, "weights") else x).state_dict() for x in (a, b))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def same_processing(a, b):
    for name in (
        "cameras",
        "rename",
        "state_dim",
        "action_dim",
        "steps",
        "prompt_style",
        "relative",
        "resize",
        "geometry",
    ):
        assert getattr(a, name) == getattr(b, name), name
    for x, y in (
        (a.normalization.state, b.normalization.state),
        (a.normalization.action, b.normalization.action),
    ):
        assert (x.mode, x.formula, x.eps) == (y.mode, y.formula, y.eps)
        assert np.array_equal(x.a, y.a) and np.array_equal(x.b, y.b)


def test_openpi_becomes_a_folder_that_needs_no_telling(torch_folder, tmp_path):  # noqa: F811
    folder, made = torch_folder
    relative = json.dumps([True] * 7 + [False])
    told = [*CHUNK, "--set", f"relative={relative}", "--set", f"tokenizer={made / 'tokenizer'}"]
    assert convert(folder, tmp_path / "out", *told) == 0
    before, after = load_checkpoint(folder, read_set(told[1::2])), load_checkpoint(tmp_path / "out")
    same_processing(before, after)
    equal(before, after)
    assert after.tokenizer == tmp_path / "out/tokenizer/tokenizer.json" and not after.notes


@pytest_jax
@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_jax(model, tmp_path):
    assert convert(DATA / model, tmp_path / "a", *CHUNK) == 0
    equal(load_checkpoint(DATA / model, {"geometry": {"chunk": 4}}), tmp_path / "a")
    assert convert(DATA / model, tmp_path / "b", *CHUNK, "--dtype", "bf16") == 0
    assert set(load_checkpoint(tmp_path / "b").weights.dtypes().values()) == {"bfloat16"}


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_a_round_trip_is_exact_to_the_bit(model, tmp_path):
    made = make(tmp_path / "made", model)

    def half(tensors):  # dtypes may be mixed: each keeps its own
        for i, name in enumerate(sorted(tensors)):
            if i % 2:
                tensors[name] = tensors[name].bfloat16()

    edit_tensors(made / "model.safetensors", half)
    assert convert(made, tmp_path / "a") == 0 and convert(tmp_path / "a", tmp_path / "b") == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    same_processing(load_checkpoint(made), load_checkpoint(tmp_path / "b"))
    equal(made, tmp_path / "b")
    assert load_checkpoint(made).weights.dtypes() == load_checkpoint(tmp_path / "b").weights.dtypes()


@pytest.mark.parametrize(
    "names",
    [None, ("a", "b", "c", "d", "e", "f", "g", "gripper"), ("j1", "j10", "j2", "j3", "j4", "j5", "j6", "j7")],
)
@pytest.mark.parametrize("mask", [(True,) * 7 + (False,), (False, True) * 4])
def test_any_relative_mask_can_be_written(names, mask, tmp_path):
    told = {"relative": list(mask)} | ({"action_names": list(names)} if names else {})
    checkpoint = load_checkpoint(make(tmp_path / "made", "pi0"), told)
    if names is None:
        checkpoint = replace(checkpoint, action_names=None)
    with writer.new_folder(tmp_path / "out") as draft:
        writer.write_checkpoint(checkpoint, draft, None)
    assert load_checkpoint(tmp_path / "out").relative.mask == mask


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch, capsys):
    made = make(tmp_path / "made", "pi0")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_tensors", interrupted)
    with pytest.raises(SystemExit) as exit:
        convert(made, tmp_path / "out")
    assert exit.value.code == 130 and "nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_what_cannot_be_converted(tmp_path, capsys):
    made = make(tmp_path / "made", "pi0")
    for arguments, words in (
        ([tmp_path / "nowhere", tmp_path / "out"], "does not exist"),
        ([made, made], "exists already"),
        ([made, tmp_path / "out", "--set", "x"], "--set x: must be KEY=JSON"),
        ([made, tmp_path / "out", "--set", "chunk=3"], "settings: chunk: unknown key"),
    ):
        with pytest.raises(SystemExit) as exit:
            convert(*arguments)
        assert exit.value.code == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_on_the_command_line():
    pairs = [
        "geometry.chunk=10",
        "geometry.vision.heads=4",
        "assets=droid",
        "relative=[true,false]",
        'prompt="pi0"',
    ]
    expected = {
        "geometry": {"chunk": 10, "vision": {"heads": 4}},
        "assets": "droid",
        "relative": [True, False],
    }
    assert read_set(pairs) == expected | {"prompt": "pi0"}


# --- inspect ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "c", "pi05", robot="sim")


def test_inspect_tells_everything(made, capsys):
    assert inspect([str(made)]) == 0
    text = capsys.readouterr().out
    for words in (
        "lerobot",
        "pi05",
        "float32 (91 tensors)",
        "left_wrist_0_rgb",
        "8: quantiles (lerobot), q01 and q99: [-2.8, 2.8]",
        "4 actions, 10 steps",
        "tokenizer.json",
        "joints: 8 (joint1, joint2",
    ):
        assert words in text, words
    assert inspect([str(made), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "pi05"


def test_inspect_checks_a_robot(made, capsys):
    assert inspect([str(made), "--robot", "sim"]) == 0
    assert inspect([str(made), "--robot", "aloha"]) == 1
    assert "the checkpoint has 8 dimensions, the robot has 14 joints" in capsys.readouterr().out
    assert inspect([str(made), "--robot", "droid"]) == 0  # eight joints and known cameras
    assert "right_wrist_0_rgb will be masked" in capsys.readouterr().out
    assert inspect([str(made), "--robot", "droid", "--set", "relative=[true]"]) == 1
    assert "panda_joint1: relative in the checkpoint, velocities in the robot file" in capsys.readouterr().out
    assert inspect([str(made), "--robot", "sim", "--set", 'cameras=["image"]']) == 1
    assert "the checkpoint has no base_0_rgb" in capsys.readouterr().out
    names = '["joint2","joint1","joint3","joint4","joint5","joint6","joint7","gripper"]'
    assert inspect([str(made), "--robot", "sim", "--set", f"action_names={names}"]) == 1
    assert "the checkpoint's order is joint2, joint1" in capsys.readouterr().out


def test_inspect_refuses(made, tmp_path, capsys):
    for arguments in ([str(tmp_path / "no")], [str(made), "--robot", "none"]):
        with pytest.raises(SystemExit) as exit:
            inspect(arguments)
        assert exit.value.code == 2
        assert "inspect:" in capsys.readouterr().err


def test_inspect_misses_a_tokenizer(made, tmp_path, capsys, monkeypatch):
    import shutil

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path))
    folder = shutil.copytree(made, tmp_path / "c")
    shutil.rmtree(folder / "tokenizer")
    edit_json(folder / "policy_preprocessor.json", lambda data: None)
    assert inspect([str(folder)]) == 1
    assert "tokenizer: not found" in capsys.readouterr().out
