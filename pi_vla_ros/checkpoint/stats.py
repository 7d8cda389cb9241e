# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Statistics -> normalisation, refusing those that would make an arm jump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pi_vla_ros.checkpoint.settings import KEY
from pi_vla_ros.checkpoint.types import CheckpointError
from pi_vla_ros.processing.normalize import EPS, STATISTICS, Formula, Mode, Transform


def make_transform(
    mode: Mode,
    stats: Mapping[str, Any],
    where: str,
    dims: int | None,
    formula: Formula,
    eps: float | None = None,
    constant_dims: bool = False,
) -> Transform:
    """The transform of one feature of length `dims`. stats: statistic -> numbers; where: 'file: key'.

    Refused: a statistic that the mode needs and that is not there, another length than `dims`, NaN
    or infinity, a negative width, and (unless `constant_dims`) a width of 0, which makes noise in
    that dimension look enormous.
    """
    if mode == "identity":
        return Transform()
    names = STATISTICS[mode]
    a, b = (_numbers(stats, name, where, mode, dims) for name in names)
    if len(a) != len(b):
        raise CheckpointError(f"{where}: {names[0]} has {len(a)} entries, {names[1]} has {len(b)}")
    width = b if mode == "mean_std" else b - a
    what = names[1] if mode == "mean_std" else f"{names[1]} - {names[0]}"
    if (width < 0).any():
        raise CheckpointError(f"{where}: {what} is negative in dimensions {_where(width < 0)}")
    if (width == 0).any() and not constant_dims:
        raise CheckpointError(
            f"{where}: {what} is 0 in dimensions {_where(width == 0)}: they never moved in the training "
            f"data, and any movement now would look enormous. To accept this as the reference does: "
            f"'{KEY}': {{'constant_dims': true}}"
        )
    return Transform(mode, a, b, formula, EPS[formula] if eps is None else eps)


def _numbers(stats: Mapping[str, Any], name: str, where: str, mode: Mode, dims: int | None) -> np.ndarray:
    if stats.get(name) is None:
        raise CheckpointError(
            f"{where}: {name}: is missing; normalisation '{mode}' needs {', '.join(STATISTICS[mode])}"
        )
    try:
        values = np.asarray(stats[name], np.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {name}: must be a list of numbers: {error}") from error
    if values.ndim != 1 or len(values) == 0:
        raise CheckpointError(f"{where}: {name}: must be a list of numbers, has shape {list(values.shape)}")
    if dims is not None and len(values) != dims:
        raise CheckpointError(f"{where}: {name}: has {len(values)} entries, the feature has {dims} dimensions")
    if not np.isfinite(values).all():
        raise CheckpointError(f"{where}: {name}: is not finite in dimensions {_where(~np.isfinite(values))}")
    return values


def _where(wrong: np.ndarray) -> str:
    return ", ".join(map(str, np.flatnonzero(wrong)))
