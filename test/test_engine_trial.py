# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Kernels that answer wrongly are not used: the engine says so and takes the PyTorch model's graphs."""

import sys
import types

import pytest
import torch

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.engine import Engine, EngineArgs, PI0Args, PI05Args, engine
from pi_vla_ros.engine.reference import ReferenceRunner
from pi_vla_ros.engine.trial import TrialError, compare, question
from pi_vla_ros.model.geometry import tiny


class Kernels(ReferenceRunner):
    """Stands for the fused runner: the model's answer, but for `off`."""

    off, asked = 0.0, 0

    def __init__(self, model, *, cameras, max_batch, steps, rtc, resize, largest_frame):
        super().__init__(model, cameras=cameras, max_batch=max_batch, steps=steps)

    def prepare(self, batch, cameras, prompt): ...

    def run(self, inputs):
        type(self).asked += len(inputs.lang_lens)
        return super().run(inputs) * (1 + self.off)


@pytest.mark.parametrize("model", ["pi05", "pi0"])
@pytest.mark.parametrize(("off", "used"), [(0.0, True), (0.01, True), (0.1, False), (float("nan"), False)])
def test_kernels_are_used_only_when_they_answer_as_the_model_does(model, off, used, monkeypatch, recwarn):
    chosen = types.SimpleNamespace(FusedRunner=type("Chosen", (Kernels,), {"off": off}))
    monkeypatch.setitem(sys.modules, "pi_vla_ros.engine.fused.runner", chosen)
    monkeypatch.setattr(engine, "GraphRunner", lambda model, rtc, **sizes: ReferenceRunner(model, **sizes))
    geometry = tiny(model, chunk=7, prompt_len=24)
    args = (PI05Args if model == "pi05" else PI0Args)(random_geometry=geometry, max_batch_size=3)
    with Engine(EngineArgs(model, args)) as made:
        made.fused = True
        runner = made._make_runner(lambda: random_model(geometry, seed=1), captured=True)
        assert isinstance(runner, Kernels) == used == made.fused
        assert chosen.FusedRunner.asked == (1 + 3 if used else 1)  # one robot, then as many as there may be
    said = [str(w.message) for w in recwarn if "our kernels are not used here" in str(w.message)]
    assert len(said) == (not used) and all("off the PyTorch model's" in text for text in said)


def test_the_question_is_always_the_same_and_its_frames_are_its_images():
    g = tiny("pi0", chunk=7, prompt_len=24)
    (a, frames), (b, _) = question(g, 3, 2), question(g, 3, 2)
    assert torch.equal(a.noise, b.noise) and torch.equal(a.pixel_values, b.pixel_values)
    assert a.pixel_values.shape == (2, 3, 3, g.vision.image, g.vision.image) and a.state.shape == (2, g.action_dim)
    pixel = torch.from_numpy(frames[1][2]).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(a.pixel_values[1, 2], pixel, atol=1e-6, rtol=0)


def test_what_is_compared():
    expected = torch.ones(4)
    compare(expected * 1.04, expected)
    with pytest.raises(TrialError, match=r"6\.0% off"):
        compare(expected * 1.06, expected)
