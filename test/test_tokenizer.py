# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: a small one trained here in both file formats, and PaliGemma's own where it is installed."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.checkpoint.find import find_tokenizer_of
from pi_vla_ros.processing.prompt import PromptStyle, prompt_tokens
from pi_vla_ros.processing.tokenizer import TokenizerError, load_tokenizer
from pi_vla_ros.processing.train_tokenizer import corpus, train_tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tokenizer that make-checkpoint writes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, 512)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory):
    """A SentencePiece model with PaliGemma's special ids and options."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.split("\n")),
        model_writer=model,
        vocab_size=600,
        model_type="bpe",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["\n"],
        minloglevel=2,
    )
    file = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return load_tokenizer(file)


@pytest.fixture(params=["small", "sentence_piece"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_special_ids_digits_and_newline(tokenizer):
    ids = tokenizer.encode("Task: pick up cube, State: 128 -1;\nAction: ")
    assert ids[0] == tokenizer.bos == 2
    assert not {0, 1, 3} & set(ids)  # no padding, no end, nothing unknown
    assert len(tokenizer.pieces("128")) == 3
    assert len(tokenizer.pieces("\n")) == 1
    assert tokenizer.pieces("\n")[0] in ids
    assert tokenizer.encode("a", "b") == [2, *tokenizer.pieces("a"), *tokenizer.pieces("b")]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_any_text_has_ids(small, sentence_piece, text):
    for tokenizer in (small, sentence_piece):
        assert all(0 <= i < tokenizer.vocab for i in tokenizer.encode(text))


def test_training_is_deterministic(small, tmp_path):
    assert train_tokenizer(tmp_path, 512).read_bytes() == small.path.read_bytes()


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab: 100 is too small"):
        train_tokenizer(tmp_path, 100)


def test_a_special_token_in_the_text_is_not_special_to_us(small):
    assert small.encode("pick")[1:] == small.pieces("pick")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{}", b"garbage" * 50])
def test_a_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path)


def test_no_tokenizer_here(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer here; expected tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_where_tokenizers_are_found(tmp_path, monkeypatch, small):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path / "openpi"))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    assert find_tokenizer_of(folder) is None
    places = [
        tmp_path / "openpi/big_vision/paligemma_tokenizer.model",
        tmp_path / "hf/hub/models--google--paligemma-3b-pt-224/snapshots/abc/tokenizer.json",
        folder / "tokenizer.model",
        folder / "tokenizer" / "tokenizer.json",
    ]
    for place in places:  # each is preferred to those before it
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(small.path.read_bytes())
        assert find_tokenizer_of(folder) == place


# --- PaliGemma's own
# -----------------------------------------------------------------------------------------

GOLDEN_PI05 = (
    "2 7071 235292 4788 908 28660 235269 3040 235292 235248 235276 235248 235274 235284 235321 "
    "235248 235284 235308 235308 235289 108 4022 235292 235248"
)
GOLDEN_PI0 = "2 18075 908 573 14581 108"


@pytest.fixture(scope="module")
def paligemma():
    file = os.environ.get("PALIGEMMA_TOKENIZER") or find_tokenizer_of(Path("/nonexistent"))
    if file is None:
        pytest.skip("PaliGemma's tokenizer is not redistributable and not installed here")
    return load_tokenizer(file)


def test_paligemma_golden_ids(paligemma):
    state = np.array([-1.0, 0.0, 1.0])
    assert prompt_tokens(PromptStyle("pi05"), paligemma, "pick up cube", state, 200) == [*map(int, GOLDEN_PI05.split())]
    for style in ("pi0", "pi0_raw"):
        ids = prompt_tokens(PromptStyle(style), paligemma, "pick up the bowl", None, 48)
        assert ids == [*map(int, GOLDEN_PI0.split())]
    minus = "235248 235274 235308 235304 728 235274 235248 235274 235284 235321"
    assert paligemma.pieces(" 153 -1 128") == [*map(int, minus.split())]
