# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Policy: robot units in, robot units out, on real checkpoints."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest

from pi_vla_ros.policy import Policy, PolicyError, PolicyOptions
from pi_vla_ros.robot import Action, State
from pi_vla_ros.types import Observation

OPTIONS = PolicyOptions(target="cpu", seed=0, cpu_threads=1)


def observation(robot, prompt="pick up the red block", **changes):
    rng = np.random.default_rng(0)
    images = {slot: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for slot in robot.cameras}
    return Observation(**({"images": images, "state": robot.home, "prompt": prompt, "stamp": 12.5} | changes))


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_infer(model, tiny_checkpoint, sim_robot):
    policy = Policy(tiny_checkpoint(model), sim_robot, OPTIONS)
    assert policy.model == model
    chunk = policy.infer(observation(sim_robot))
    assert chunk.actions.shape == (50, 8) and np.isfinite(chunk.actions).all()
    assert chunk.stamp == 12.5 and chunk.dt == pytest.approx(1 / 10)
    assert chunk.model_actions.shape == (50, 32)
    assert list(chunk.stage_ms) == ["preprocess", "vision", "prefix", "expert", "copies", "postprocess"]
    np.testing.assert_array_equal(chunk.actions, policy.infer(observation(sim_robot)).actions)  # seeded
    for change in (
        {"prompt": "wave"},
        {"state": sim_robot.home + 0.2},
        {"images": {s: np.zeros((48, 64, 3), np.uint8) for s in sim_robot.cameras}},
        {"images": dict(list(observation(sim_robot).images.items())[:2])},  # a camera that is not there
    ):
        other = policy.infer(observation(sim_robot, **change)).actions
        assert np.abs(other - chunk.actions).max() > 1e-6, change
    policy.close()


def test_robot_units_are_converted_both_ways(tiny_checkpoint, sim_robot):
    """A robot in other units behind the same policy: the policy sees and says the same."""
    scale, offset = 57.3, 4.0
    joints = tuple(
        dataclasses.replace(
            j,
            state=State(scale, offset),
            action=Action("position", 1 / scale, -offset / scale),
        )
        for j in sim_robot.joints
    )
    other = dataclasses.replace(sim_robot, joints=joints)
    plain, scaled = (Policy(tiny_checkpoint(), r, OPTIONS) for r in (sim_robot, other))
    said = plain.infer(observation(sim_robot, state=scale * sim_robot.home + offset))
    again = scaled.infer(observation(sim_robot, state=sim_robot.home))
    np.testing.assert_allclose(again.actions, (said.actions - offset) / scale, atol=1e-9)
    np.testing.assert_array_equal(again.model_actions, said.model_actions)


def test_noise_scale_and_seed(tiny_checkpoint, sim_robot):
    def actions(**options):
        policy = Policy(tiny_checkpoint(), sim_robot, PolicyOptions(target="cpu", cpu_threads=1, **options))
        return [policy.infer(observation(sim_robot)).model_actions for _ in range(2)]

    a, b = actions()
    assert np.abs(a - b).max() > 1e-3  # drawn anew
    a, b = actions(noise_scale=0.0)
    np.testing.assert_array_equal(a, b)
    calm, usual = actions(noise_scale=0.1, seed=1)[0], actions(seed=1)[0]
    assert np.abs(calm).std() < np.abs(usual).std()


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_real_time_chunking_agrees_with_the_chunk_before(model, tiny_checkpoint, sim_robot):
    """Where the chunk before is still executed, the new one is nearly the same at the same times."""
    motion = dataclasses.replace(sim_robot.motion, stitcher="rtc", rtc_schedule="ones", rtc_horizon=10)
    policy = Policy(tiny_checkpoint(model), dataclasses.replace(sim_robot, motion=motion), OPTIONS)
    first = policy.infer(observation(sim_robot))
    later = observation(sim_robot, prompt="wave", state=sim_robot.home + 0.1, stamp=12.5 + 2 * first.dt)
    free, guided = policy.infer(later), policy.infer(later, previous=first, delay=0.3)
    same_times = first.actions[2:12]  # two actions later
    assert np.abs(guided.actions[:10] - same_times).mean() < 0.25 * np.abs(free.actions[:10] - same_times).mean()
    blend = Policy(tiny_checkpoint(model), sim_robot, OPTIONS)
    np.testing.assert_array_equal(blend.infer(later, previous=first).actions, blend.infer(later).actions)


def test_guidance_is_as_strong_as_the_robot_file_says(tiny_checkpoint, sim_robot):
    """Horizon, schedule and largest factor each change how close the new chunk stays to the one before."""

    def distance(**changes):
        wanted = {"stitcher": "rtc", "rtc_schedule": "ones", "rtc_horizon": 10} | changes
        motion = dataclasses.replace(sim_robot.motion, **wanted)
        policy = Policy(tiny_checkpoint(), dataclasses.replace(sim_robot, motion=motion), OPTIONS)
        first = policy.infer(observation(sim_robot))
        later = observation(sim_robot, prompt="wave", stamp=12.5 + 2 * first.dt)
        again = policy.infer(later, previous=first, delay=0.2)
        return np.abs(again.actions[:10] - first.actions[2:12]).mean()

    full = distance()
    for weaker in ({"rtc_max_guidance": 1.0}, {"rtc_horizon": 3}, {"rtc_schedule": "zeros"}):
        assert distance(**weaker) > 1.2 * full, weaker


def relative_checkpoint(source, folder):
    """The same model, answering with offsets from the state."""
    shutil.copytree(source, folder)
    (folder / "pi_vla_ros.json").write_text(json.dumps({"relative": [True] * 8}))
    return folder


def test_relative_actions_are_rebuilt_against_the_present_state(tiny_checkpoint, sim_robot, tmp_path):
    """The arm has moved; the chunk before still means the same targets, so the offsets that are asked for differ."""
    motion = dataclasses.replace(sim_robot.motion, stitcher="rtc", rtc_schedule="ones", rtc_horizon=10)
    robot = dataclasses.replace(sim_robot, motion=motion)
    policy = Policy(relative_checkpoint(tiny_checkpoint(), tmp_path / "relative"), robot, OPTIONS)
    first = policy.infer(observation(robot))
    moved = robot.home + 0.05
    asked = policy._agree_with(first, 12.5, moved, 0.3)
    rebuilt = policy._processor.finish(asked["rtc_target"][0].numpy(), moved)
    np.testing.assert_allclose(rebuilt, first.actions, atol=1e-5)  # the same targets
    stale = policy._processor.finish(first.model_actions, moved)
    assert np.abs(stale - first.actions).max() > 0.04  # what feeding the answer back as it was would mean


def trained_checkpoint(source, folder, delay=4):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rtc_training_max_delay": delay}))
    return folder


def test_a_checkpoint_trained_for_it_commits_to_the_chunk_before(tiny_checkpoint, sim_robot, tmp_path):
    """For as many actions as the delay lasts, at most those it was trained with; more is told once."""
    motion = dataclasses.replace(sim_robot.motion, stitcher="rtc_trained")
    robot = dataclasses.replace(sim_robot, motion=motion)
    policy = Policy(trained_checkpoint(tiny_checkpoint(), tmp_path / "trained"), robot, OPTIONS)
    first = policy.infer(observation(robot))
    later = observation(robot, prompt="wave", stamp=12.5 + 2 * first.dt)
    for delay, committed in ((0.0, 0), (0.01, 1), (0.3, 3)):
        again = policy.infer(later, previous=first, delay=delay)
        np.testing.assert_allclose(again.actions[:committed], first.actions[2 : 2 + committed], atol=1e-5)
        assert np.abs(again.actions[committed] - first.actions[2 + committed]).max() > 1e-4
    np.testing.assert_array_equal(policy.infer(later, first, 0.0).actions, policy.infer(later).actions)
    with pytest.warns(UserWarning, match="takes over 9 actions after its observation; .* at most 4"):
        again = policy.infer(later, previous=first, delay=0.9)
    np.testing.assert_allclose(again.actions[:4], first.actions[2:6], atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.infer(later, previous=first, delay=0.9)


@pytest.mark.parametrize(
    ("model", "words"), [("pi05", "has no rtc_training_max_delay above 0"), ("pi0", "π0 cannot be")]
)
def test_rtc_trained_needs_a_checkpoint_trained_for_it(model, words, tiny_checkpoint, sim_robot):
    robot = dataclasses.replace(sim_robot, motion=dataclasses.replace(sim_robot.motion, stitcher="rtc_trained"))
    with pytest.raises(PolicyError, match=r"motion\.stitcher: robot 'sim' asks for rtc_trained") as error:
        Policy(tiny_checkpoint(model), robot, OPTIONS)
    assert words in str(error.value)


def test_another_model_than_asked_for_is_refused_before_the_weights_are_read(tiny_checkpoint, sim_robot, monkeypatch):
    monkeypatch.setattr("pi_vla_ros.policy.Engine", lambda *_: pytest.fail("an engine was made"))
    with pytest.raises(PolicyError, match=r"parameter model: 'pi0' asked for, .* is 'pi05'"):
        Policy(tiny_checkpoint(), sim_robot, dataclasses.replace(OPTIONS, model="pi0"))


def test_pairs_that_do_not_fit_are_refused(tiny_checkpoint, sim_robot, tmp_path):
    fewer = dataclasses.replace(sim_robot, joints=sim_robot.joints[:6])
    with pytest.raises(ValueError, match="has 6 joints, the checkpoint's state has 8 dimensions"):
        Policy(tiny_checkpoint(), fewer, OPTIONS)
    cameras = {"top": sim_robot.cameras["base_0_rgb"]}
    with pytest.raises(PolicyError, match=r"has top, which .* does not know; its cameras are base_0_rgb"):
        Policy(tiny_checkpoint(), dataclasses.replace(sim_robot, cameras=cameras), OPTIONS)
    with pytest.raises(ValueError, match="does not exist"):
        Policy(tmp_path / "none", sim_robot, OPTIONS)


def test_tokenizer_and_resize_can_be_named(tiny_checkpoint, sim_robot, tmp_path):
    """A checkpoint without a tokenizer says how to name one; another way to resize gives other actions."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint(), bare)
    tokenizer = shutil.move(bare / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="parameter 'tokenizer'"):
        Policy(bare, sim_robot, OPTIONS)
    named = Policy(bare, sim_robot, dataclasses.replace(OPTIONS, tokenizer=str(tokenizer)))
    usual = Policy(tiny_checkpoint(), sim_robot, OPTIONS)
    said = usual.infer(observation(sim_robot)).actions
    np.testing.assert_array_equal(named.infer(observation(sim_robot)).actions, said)
    other = Policy(tiny_checkpoint(), sim_robot, dataclasses.replace(OPTIONS, resize="pil"))
    assert np.abs(other.infer(observation(sim_robot)).actions - said).max() > 0
    with pytest.raises(ValueError, match="resize: is 'nearest'; allowed: pil"):
        Policy(tiny_checkpoint(), sim_robot, dataclasses.replace(OPTIONS, resize="nearest"))


def test_prompts_are_checked(tiny_checkpoint, sim_robot):
    policy = Policy(tiny_checkpoint(), sim_robot, OPTIONS)
    policy.check_prompt("pick up the red block")
    for prompt, words in (("  ", "empty"), ("pick " * 400, "tokens long")):
        with pytest.raises(ValueError, match=words):
            policy.check_prompt(prompt)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": np.full(8, np.nan)}, "state"),
        ({"state": np.zeros(7)}, "state"),
        ({"images": {}}, "images"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_bad_observations_are_refused_and_the_policy_goes_on(change, words, tiny_checkpoint, sim_robot):
    policy = Policy(tiny_checkpoint(), sim_robot, OPTIONS)
    with pytest.raises(ValueError, match=words):
        policy.infer(observation(sim_robot, **change))
    assert policy.infer(observation(sim_robot)).actions.shape == (50, 8)
