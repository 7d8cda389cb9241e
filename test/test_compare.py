# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""compare: same weights pass, other weights fail, and the numbers are the usual ones."""

import json

import numpy as np
import pytest
from folders import make
from test_convert import convert

from pi_vla_ros.cli.compare import differences, main


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def made(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "c", request.param)


def compare(capsys, *arguments):
    code = main([*map(str, arguments), "--json", "--observations", "2"])
    return code, json.loads(capsys.readouterr().out)


def test_a_converted_checkpoint_passes(made, tmp_path, capsys):
    assert convert(made, tmp_path / "converted") == 0
    capsys.readouterr()
    code, report = compare(capsys, made, tmp_path / "converted")
    assert code == 0 and report["passed"] and report["max"] == 0.0 and len(report["dimensions"]) == 8


def test_bf16_is_close_and_other_weights_are_not(made, tmp_path, capsys):
    code, report = compare(capsys, made, made, "--backend-b", "cpu-bf16")
    assert 0 < report["relative"] < 0.2 and report["tolerance"] == 0.02
    assert code == int(report["relative"] > 0.02)
    other = make(tmp_path / "other", made_model(made), seed=9)
    code, report = compare(capsys, made, other)
    assert code == 1 and not report["passed"] and report["relative"] > 0.1
    assert main([str(made), str(other), "--observations", "1"]) == 1
    assert "FAIL: relative error" in capsys.readouterr().out


def made_model(folder):
    return json.loads((folder / "config.json").read_text())["type"]


def test_pairs_that_cannot_be_compared(made, tmp_path, capsys):
    other = make(tmp_path / "other", "pi0", robot="aloha")
    for b, words in ((other, "state_dim"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(SystemExit) as exit:
            main([str(made), str(b)])
        assert exit.value.code == 2 and words in capsys.readouterr().err


def test_numbers_by_hand():
    a = np.array([[[1.0, 0.0], [3.0, 0.0]]])
    b = np.array([[[1.0, 0.0], [2.0, 0.0]]])
    report = differences(a, b)
    assert report["mae"] == 0.25 and report["max"] == 1.0
    assert report["relative"] == pytest.approx(1 / np.sqrt(2))
    first, second = report["dimensions"]
    assert first["mae"] == 0.5 and first["cosine"] == pytest.approx(7 / np.sqrt(50))
    assert second == {"mae": 0.0, "max": 0.0, "relative": 0.0, "cosine": 1.0}
