# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Normalisation formulas and relative actions, against the spec and numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vla_ros.processing.normalize import Transform
from pi_vla_ros.processing.relative import RelativeActions, mask_excluding, mask_from_counts

A, B = np.array([1.0, -2.0]), np.array([3.0, 2.0])
X = np.array([[1.0, 0.0], [2.0, -3.0]])


@pytest.mark.parametrize(
    "transform, forward, inverse",
    [
        (Transform("mean_std", A, B), (X - A) / (B + 1e-8), X * B + A),
        (Transform("mean_std", A, B, "openpi", 1e-6), (X - A) / (B + 1e-6), X * (B + 1e-6) + A),
        (Transform("quantiles", A, B), 2 * (X - A) / (B - A) - 1, (X + 1) * (B - A) / 2 + A),
        (Transform("quantile10", A, B), 2 * (X - A) / (B - A) - 1, (X + 1) * (B - A) / 2 + A),
        (Transform("min_max", A, B), 2 * (X - A) / (B - A) - 1, (X + 1) / 2 * (B - A) + A),
        (
            Transform("quantiles", A, B, "openpi", 1e-6),
            (X - A) / (B - A + 1e-6) * 2 - 1,
            (X + 1) / 2 * (B - A + 1e-6) + A,
        ),
        (Transform(), X, X),
    ],
    ids=["mean_std", "openpi mean_std", "quantiles", "quantile10", "min_max", "openpi quantiles", "identity"],
)
def test_formulas_are_exact(transform, forward, inverse):
    assert np.array_equal(transform.forward(X), forward)
    assert np.array_equal(transform.inverse(X), inverse)
    assert transform.forward(X.astype(np.float32)).dtype == np.float32


def test_numbers_by_hand():
    quantiles = Transform("quantiles", np.array([0.0]), np.array([4.0]))
    assert quantiles.forward(np.array([1.0])) == -0.5
    assert quantiles.inverse(np.array([0.5])) == 3.0
    constant = Transform("quantiles", np.array([2.0]), np.array([2.0]))  # LeRobot: a width of 0 becomes 1e-8
    assert constant.forward(np.array([2.0])) == -1.0
    assert constant.inverse(np.array([0.7])) == pytest.approx(2.0, abs=1e-7)


def test_openpi_cuts_long_statistics_and_passes_what_has_none():
    mean_std = Transform("mean_std", A, B, "openpi", 1e-6)
    assert np.array_equal(mean_std.forward(np.array([2.0])), (np.array([2.0]) - 1.0) / (3.0 + 1e-6))
    assert np.array_equal(
        mean_std.inverse(np.array([1.0, 1.0, 5.0])),
        [1.0 * (3.0 + 1e-6) + 1.0, 1.0 * (2.0 + 1e-6) - 2.0, 5.0 * (1 + 1e-6)],
    )
    quantiles = Transform("quantiles", A[:1], B[:1], "openpi", 1e-6)
    assert quantiles.inverse(np.array([0.0, 7.0]))[1] == 7.0


@pytest.mark.parametrize("formula", ["lerobot", "openpi"])
def test_a_vector_longer_than_the_statistics_is_refused(formula):
    with pytest.raises(ValueError, match="has 3 dimensions, the statistics are for 2"):
        Transform("mean_std", A, B, formula).forward(np.zeros(3))


numbers = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(numbers, st.floats(0.1, 1e3), numbers), min_size=1, max_size=20), st.data())
@settings(deadline=None)
def test_inverse_undoes_forward(rows, data):
    low, width, x = np.array(rows).T
    mode = data.draw(st.sampled_from(["mean_std", "min_max", "quantiles", "quantile10"]))
    formula = data.draw(st.sampled_from(["lerobot", "openpi"]))
    transform = Transform(mode, low, width if mode == "mean_std" else low + width, formula, 1e-8)
    assert np.allclose(
        transform.inverse(transform.forward(x)), x, atol=1e-7 * np.abs(transform.forward(x)).max() + 1e-6
    )


# --- relative actions
# ---------------------------------------------------------------------------------------


def test_openpis_own_numbers():
    actions, state = np.array([[3.0, 4, 5], [5, 6, 7]]), np.array([1.0, 2, 3])
    relative = RelativeActions((False, True))
    assert np.array_equal(relative.to_relative(actions, state), [[3, 2, 5], [5, 4, 7]])
    assert np.array_equal(relative.to_absolute(actions, state), [[3, 6, 5], [5, 8, 7]])


def test_masks():
    assert mask_from_counts(6, -1, 6, -1) == (True,) * 6 + (False,) + (True,) * 6 + (False,)
    names = ["shoulder.pos", "left_Gripper.pos", "wrist"]
    assert mask_excluding(names, ["gripper"], 3) == (True, False, True)
    assert mask_excluding(names, ["gripper"], 4) == (True, False, True, True)
    assert mask_excluding(None, ["gripper"], 2) == (True, True)
    assert mask_excluding(names, [""], 3) == (True, True, True)


@given(st.lists(st.booleans(), min_size=1, max_size=14), st.integers(0, 2**32))
@settings(deadline=None)
def test_absolute_undoes_relative(mask, seed):
    random = np.random.default_rng(seed)
    actions, state = random.normal(size=(5, 14)), random.normal(size=14)
    relative = RelativeActions(tuple(mask))
    changed = relative.to_relative(actions, state)
    assert np.allclose(relative.to_absolute(changed, state), actions)
    assert np.array_equal(changed != actions, np.broadcast_to([*mask, *[False] * (14 - len(mask))], actions.shape))
