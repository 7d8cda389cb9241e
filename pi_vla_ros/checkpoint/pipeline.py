# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LeRobot's policy_{pre,post}processor.json: which steps, in which order, with what statistics.

A step is `{"registry_name", "config", "state_file"?, "artifacts"?}`. A step that is not known here
could change what the model sees, so it is refused; so is an order that no version of LeRobot
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi_vla_ros.checkpoint.files import optional, read_json
from pi_vla_ros.checkpoint.safetensors import read_headers, read_tensors
from pi_vla_ros.checkpoint.types import CheckpointError

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"

RENAME, NORMALIZE, UNNORMALIZE = (
    "rename_observations_processor",
    "normalizer_processor",
    "unnormalizer_processor",
)
NEWLINE, STATE_PROMPT = "pi0_new_line_processor", "pi05_prepare_state_tokenizer_processor_step"
TOKENIZE, RELATIVE, ABSOLUTE = (
    "tokenizer_processor",
    "relative_actions_processor",
    "absolute_actions_processor",
)
_OLD_NAMES = {"delta_actions_processor": RELATIVE}  # LeRobot 0.5.1
_PLUMBING = {"to_batch_processor", "device_processor"}  # change no number
_KNOWN = {RENAME, NORMALIZE, UNNORMALIZE, NEWLINE, STATE_PROMPT, TOKENIZE, RELATIVE, ABSOLUTE} | _PLUMBING


@dataclass(frozen=True)
class Step:
    """One step. stats: feature -> statistic -> (dims,) float64; where: 'file: step', for errors."""

    config: Mapping[str, Any]
    position: int
    where: str
    stats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_pipeline(file: Path) -> dict[str, Step]:
    """Step name -> step. A file that is not there is an empty pipeline (everything stays as it is)."""
    if not file.is_file():
        return {}
    steps: dict[str, Step] = {}
    for i, entry in enumerate(optional(read_json(file), "steps", list, file) or []):
        where = f"{file}: steps[{i}]"
        if not isinstance(entry, dict):
            raise CheckpointError(f"{where}: must be a mapping with registry_name and config")
        name = optional(entry, "registry_name", str, where) or optional(entry, "class", str, where)
        name = _OLD_NAMES.get(name, name)
        if name not in _KNOWN:
            raise CheckpointError(f"{where}: step '{name}' is not known; known: {', '.join(sorted(_KNOWN))}")
        if name in steps:
            raise CheckpointError(f"{where}: step '{name}' occurs twice")
        config = optional(entry, "config", dict, where) or {}
        state_file = optional(entry, "state_file", str, where)
        stats = {} if state_file is None else _read_stats(file.parent, state_file, where)
        steps[name] = Step(config, i, f"{where} ({name})", stats)
    return steps


def check_order(pre: Mapping[str, Step], post: Mapping[str, Step]) -> None:
    """Relative before normalise before the state's prompt; unnormalise before absolute."""
    for steps, first, then in (
        (pre, RELATIVE, NORMALIZE),
        (pre, NORMALIZE, STATE_PROMPT),
        (pre, STATE_PROMPT, TOKENIZE),
        (pre, NEWLINE, TOKENIZE),
        (post, UNNORMALIZE, ABSOLUTE),
    ):
        if first in steps and then in steps and steps[first].position > steps[then].position:
            raise CheckpointError(f"{steps[first].where}: must come before '{then}'")


def _read_stats(folder: Path, name: str, where: str) -> dict[str, dict[str, Any]]:
    """The statistics in a state file: 'observation.state.mean' and so on."""
    if Path(name).name != name:
        raise CheckpointError(f"{where}: state_file: must name a file in the same folder, is {name!r}")
    stats: dict[str, dict[str, Any]] = {}
    headers = read_headers(folder / name)
    integers = [n for n, header in headers.items() if not header.dtype.startswith(("F", "BF"))]
    for key, tensor in read_tensors({n: h for n, h in headers.items() if n not in integers}):  # counts are not used
        feature, _, statistic = key.rpartition(".")
        stats.setdefault(feature, {})[statistic] = tensor.double().numpy()
    return stats
