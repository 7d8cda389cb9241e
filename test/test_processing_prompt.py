# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prompts: the strings and bins of MODEL_SPEC 5.3."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.processing.prompt import (
    PromptError,
    PromptStyle,
    clean,
    prompt_pieces,
    prompt_tokens,
    state_bins,
)
from pi_vla_ros.processing.tokenizer import Tokenizer

PI05, PI0, RAW = PromptStyle("pi05"), PromptStyle("pi0"), PromptStyle("pi0_raw")
LETTERS = Tokenizer(path=None, bos=2, vocab=1 << 20, pieces=lambda text: [ord(c) for c in text])


def test_golden_strings():
    assert prompt_pieces(PI05, "pick up cube", np.array([-1.0, 0.0, 1.0])) == (
        "Task: pick up cube, State: 0 128 255;\nAction: ",
    )
    assert prompt_pieces(PI0, " pick_up\nthe bowl ") == ("pick up the bowl", "\n")
    assert prompt_pieces(RAW, " pick_up the bowl ") == (" pick_up the bowl \n",)
    assert prompt_pieces(RAW, "pick up\n") == ("pick up\n",)


def test_bins_are_closed_on_the_left_and_not_clipped():
    x = [-1.001, -1.0, -1 + 1 / 128 - 1e-9, -1 + 1 / 128, 0.0, 0.5, 127 / 128, 1.0, 50.0]
    assert state_bins(np.array(x)).tolist() == [-1, 0, 0, 1, 128, 192, 255, 255, 255]
    text = prompt_pieces(PI05, "x", np.array([-2.0]))[0]
    assert text == "Task: x, State: -1;\nAction: "


@given(st.floats(-3, 3, width=32))
@settings(deadline=None)
def test_bins_against_arithmetic(x):
    exact = math.floor((Fraction(x) + 1) * 128)
    assert state_bins(np.array([x]))[0] == max(-1, min(255, exact))


def test_lerobot_04_pads_the_state_before_it_is_written():
    style = PromptStyle("pi05", state_dims=32)
    text = prompt_pieces(style, "x", np.array([1.0, -1.0]))[0]
    assert text == "Task: x, State: 255 0" + " 128" * 30 + ";\nAction: "
    assert prompt_pieces(style, "x", np.ones(40))[0].count("255") == 40


@pytest.mark.parametrize("style", [PI05, PI0, RAW])
@pytest.mark.parametrize("task", ["", "  \n\t", "\n"])
def test_an_empty_prompt_is_refused(style, task):
    with pytest.raises(PromptError, match="prompt: is empty"):
        prompt_pieces(style, task, np.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused(bad):
    with pytest.raises(PromptError, match="state: must be finite"):
        prompt_pieces(PI05, "x", np.array([0.0, bad]))


def test_a_long_prompt_is_refused_or_cut_on_request():
    assert prompt_tokens(RAW, LETTERS, "x" * 46, None, 48) == [2, *[ord("x")] * 46, 10]
    with pytest.raises(PromptError, match="prompt: is 49 tokens long, the model reads 48"):
        prompt_tokens(RAW, LETTERS, "x" * 47, None, 48)
    assert prompt_tokens(RAW, LETTERS, "x" * 47, None, 48, cut=True) == [2, *[ord("x")] * 47]


@given(st.text())
@settings(deadline=None)
def test_cleaning_leaves_one_line_without_underscores(text):
    assert "_" not in clean(text) and "\n" not in clean(text)
