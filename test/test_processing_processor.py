# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From an observation to the model's inputs and back, in the order of the references."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import make

from pi_vla_ros.checkpoint import load_checkpoint
from pi_vla_ros.processing.normalize import Normalization, Transform
from pi_vla_ros.processing.processor import Processor
from pi_vla_ros.processing.prompt import PromptError, PromptStyle
from pi_vla_ros.processing.relative import RelativeActions
from pi_vla_ros.processing.tokenizer import TokenizerError
from pi_vla_ros.robot import load_robot

STATE = np.array([0.1, 0.3, 0.0, -1.8, 0.0, 2.1, 0.8, 0.04])
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def checkpoint(request, tmp_path_factory):
    return load_checkpoint(make(tmp_path_factory.mktemp("made") / "c", request.param))


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    sizes = {"base_0_rgb": (48, 64), "left_wrist_0_rgb": (28, 28), "right_wrist_0_rgb": (64, 48)}
    return {slot: random.integers(0, 256, (*size, 3), dtype=np.uint8) for slot, size in sizes.items()}


def test_shapes_and_dtypes(checkpoint, pictures):
    inputs = Processor(checkpoint).prepare(pictures, STATE, "pick up the red block")
    pi0 = checkpoint.geometry.model == "pi0"
    assert inputs.pixel_values.shape == (1, 3, 3, 28, 28) and inputs.pixel_values.dtype == torch.float32
    assert inputs.camera_mask.tolist() == [[True, True, True]]
    assert inputs.input_ids.shape == (1, 48 if pi0 else 200) and inputs.input_ids.dtype == torch.int64
    length = inputs.lang_lens.item()
    assert (inputs.input_ids[0, :length] > 0).all() and (inputs.input_ids[0, length:] == 0).all()
    if pi0:
        assert inputs.state.shape == (1, 32) and inputs.state.dtype == torch.float32
        assert np.array_equal(inputs.state[0, 8:].numpy(), np.zeros(24))
        expected = checkpoint.normalization.state.forward(STATE.astype(np.float32))
        assert np.array_equal(inputs.state[0, :8].numpy(), expected)
    else:
        assert inputs.state is None
    assert np.array_equal(inputs.raw_state, STATE)


def test_the_state_enters_pi05s_prompt_normalised_and_unpadded(checkpoint, pictures):
    if checkpoint.geometry.model == "pi0":
        return
    processor = Processor(checkpoint)
    inputs = processor.prepare(pictures, STATE, "pick_up\nit")
    normal = 2 * (STATE.astype(np.float32) - checkpoint.normalization.state.a.astype(np.float32))
    width = (checkpoint.normalization.state.b - checkpoint.normalization.state.a).astype(np.float32)
    bins = np.floor((normal / width - 1 + 1) * 128).astype(int)
    text = f"Task: pick up it, State: {' '.join(map(str, bins))};\nAction: "
    assert inputs.input_ids[0, : inputs.lang_lens.item()].tolist() == processor.tokenizer.encode(text)
    padded = Processor(replace(checkpoint, prompt_style=PromptStyle("pi05", 32)))
    assert padded.prepare(pictures, STATE, "pick up it").lang_lens > inputs.lang_lens


def test_missing_cameras_keep_their_slot_and_are_masked(checkpoint, pictures):
    inputs = Processor(checkpoint).prepare({"left_wrist_0_rgb": pictures["left_wrist_0_rgb"]}, STATE, "x")
    assert inputs.camera_mask.tolist() == [[False, True, False]]
    assert (inputs.pixel_values[0, [0, 2]] == -1.0).all()
    whole = Processor(checkpoint).prepare(pictures, STATE, "x")
    assert torch.equal(inputs.pixel_values[0, 1], whole.pixel_values[0, 1])


def test_a_camera_may_change_its_size(checkpoint, pictures):
    processor = Processor(checkpoint)
    for size in ((48, 64), (480, 640), (28, 28), (300, 20)):
        image = np.full((*size, 3), 255, np.uint8)
        assert processor.prepare({"base_0_rgb": image}, STATE, "x").pixel_values[0, 0].max() == 1.0


def test_renamed_cameras_are_understood(checkpoint, pictures):
    processor = Processor(replace(checkpoint, rename={"top": "base_0_rgb"}))
    assert processor.prepare({"top": pictures["base_0_rgb"]}, STATE, "x").camera_mask.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": {}}, "images: at least one camera is needed of base_0_rgb, left_wrist_0_rgb"),
        (
            {"images": {"base": np.zeros((4, 4, 3), np.uint8)}},
            "images: the model has no camera base; allowed: base_0_rgb",
        ),
        ({"images": {"base_0_rgb": np.zeros((4, 4))}}, "image: must be"),
        ({"state": STATE[:7]}, r"state: must have 8 entries, has shape \(7,\)"),
        ({"state": np.full(8, np.nan)}, "state: must be finite"),
        ({"prompt": " "}, "prompt: is empty"),
        ({"prompt": "x " * 400}, "prompt: is .* tokens long, the model reads"),
    ],
)
def test_what_cannot_be_used_is_refused(checkpoint, pictures, change, words):
    given = {"images": pictures, "state": STATE, "prompt": "x"} | change
    with pytest.raises(ValueError, match=words):
        Processor(checkpoint).prepare(**given)
    if "tokens" in words:
        cut = Processor(checkpoint, cut_prompt=True).prepare(**given)
        assert cut.lang_lens.item() == checkpoint.geometry.prompt_len
        with pytest.raises(PromptError):
            Processor(checkpoint).prepare(**given)


def test_actions_are_cut_unnormalised_and_made_absolute_in_that_order(checkpoint):
    random = np.random.default_rng(1)
    low, high = random.normal(size=8), random.normal(size=8) + 5
    relative = RelativeActions((True,) * 7 + (False,))
    changed = replace(
        checkpoint,
        normalization=Normalization(Transform(), Transform("quantiles", low, high)),
        relative=relative,
    )
    processor = Processor(changed)
    actions = random.normal(size=(4, 32)).astype(np.float32)
    expected = (actions[:, :8].astype(np.float64) + 1) * (high - low) / 2 + low
    expected[:, :7] += STATE[:7]
    for given in (actions, torch.from_numpy(actions)):
        out = processor.finish(given, STATE)
        assert out.dtype == np.float64 and np.array_equal(out, expected)


def test_feeding_back_undoes_finish(checkpoint):
    processor = Processor(replace(checkpoint, relative=RelativeActions((True, False, True))))
    actions = np.random.default_rng(2).normal(size=(4, 32)).astype(np.float32)
    actions[:, 8:] = 0
    back = processor.to_model(processor.finish(actions, STATE), STATE)
    assert back.dtype == np.float32 and np.allclose(back, actions, atol=1e-5)
    moved = processor.to_model(processor.finish(actions, STATE), STATE + 0.01)  # the same targets, seen from elsewhere
    assert not np.allclose(moved[:, 0], actions[:, 0], atol=1e-3)
    assert np.allclose(moved[:, 1], actions[:, 1], atol=1e-5)


def test_the_robot_must_fit(checkpoint):
    assert Processor(checkpoint, load_robot("sim")).action_dim == 8
    with pytest.raises(ValueError, match="robot 'aloha' has 14 joints, the checkpoint's state has 8 dimensions"):
        Processor(checkpoint, load_robot("aloha"))
    base = replace(checkpoint, state_dim=32, action_dim=32, open_dims=True, normalization=Normalization())
    open_ = Processor(base, load_robot("aloha"))
    assert open_.prepare({"base_0_rgb": np.zeros((9, 9, 3), np.uint8)}, np.zeros(14), "x").raw_state.shape == (14,)
    assert open_.finish(np.zeros((4, 32)), np.zeros(14)).shape == (4, 14)


def test_tokenizer_and_resize_can_be_overridden(checkpoint, tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer found.*parameter 'tokenizer'"):
        Processor(replace(checkpoint, tokenizer=None))
    assert Processor(replace(checkpoint, tokenizer=None), tokenizer=str(checkpoint.tokenizer)).tokenizer.bos == 2
    with pytest.raises(TokenizerError, match="not this model's tokenizer"):
        Processor(replace(checkpoint, geometry=replace(checkpoint.geometry, vocab=100)))
    with pytest.raises(ValueError, match="resize: is 'area'; allowed: pil, fast"):
        Processor(checkpoint, resize="area")
    assert Processor(checkpoint, resize="pil").resize == "pil"
