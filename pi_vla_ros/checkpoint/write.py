# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A `Checkpoint` -> a LeRobot folder, as `make-checkpoint` and `convert` leave behind.

What LeRobot's files cannot say goes under our own key in config.json (settings.py); the rest is as
LeRobot 0.6 writes it, so that both can read it where both can run the model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pi_vla_ros.checkpoint import pipeline as steps
from pi_vla_ros.checkpoint.find import PALIGEMMA
from pi_vla_ros.checkpoint.lerobot_steps import ACTION, IMAGES, MODES, STATE
from pi_vla_ros.checkpoint.names import OUTER, on_disk
from pi_vla_ros.checkpoint.safetensors import write_tensors
from pi_vla_ros.checkpoint.settings import KEY
from pi_vla_ros.checkpoint.types import Checkpoint
from pi_vla_ros.checkpoint.weights import parameter_shapes
from pi_vla_ros.processing.normalize import STATISTICS, Transform
from pi_vla_ros.processing.relative import mask_excluding


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` only when all of it is written; an interruption leaves nothing."""
    if target.exists():
        raise FileExistsError(f"{target}: exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype | None,
    outer: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `checkpoint` into an existing empty folder, every parameter in `dtype` (None: its own).

    One tensor (or what `checkpoint.tensors()` holds at a time) is in memory. outer: put 'model.'
    before each name, as LeRobot does when it saves a policy. progress: told the tensors written and
    their number.
    """
    _write_json(folder / "config.json", _config(checkpoint, dtype))
    _write_tokenizer(checkpoint, folder)
    _write_pipelines(checkpoint, folder)
    prefix = OUTER if outer else ""
    own = checkpoint.weights.dtypes()
    layout = {
        prefix + on_disk(name): (dtype or getattr(torch, own[name]), shape)
        for name, shape in parameter_shapes(checkpoint.geometry).items()
    }

    def tensors():
        for i, (name, tensor) in enumerate(checkpoint.tensors(), 1):
            yield prefix + on_disk(name), tensor
            progress(i, len(layout))

    write_tensors(folder / "model.safetensors", layout, tensors())


def _config(c: Checkpoint, dtype: torch.dtype | None) -> dict:
    image, padded = c.geometry.vision.image, c.geometry.action_dim
    relative = _relative(c)
    bfloat = dtype == torch.bfloat16 if dtype else "bfloat16" in c.weights.dtypes().values()
    return {
        "type": c.geometry.model,
        "n_obs_steps": 1,
        "input_features": {IMAGES + slot: {"type": "VISUAL", "shape": [3, image, image]} for slot in c.cameras}
        | {STATE: {"type": "STATE", "shape": [c.state_dim]}},
        "output_features": {ACTION: {"type": "ACTION", "shape": [c.action_dim]}},
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": "bfloat16" if bfloat else "float32",
        "chunk_size": c.geometry.chunk,
        "n_action_steps": c.geometry.chunk,
        "max_state_dim": padded,
        "max_action_dim": padded,
        "num_inference_steps": c.steps,
        **({"rtc_training_max_delay": c.rtc_max_delay} if c.rtc_max_delay else {}),  # only LeRobot's newest know it
        "image_resolution": [image, image],
        "empty_cameras": 0,
        "tokenizer_max_length": c.geometry.prompt_len,
        "normalization_mapping": _modes(c),
        "use_relative_actions": relative["enabled"],
        "relative_exclude_joints": relative["exclude_joints"],
        "action_feature_names": relative["action_names"],
        KEY: {
            "geometry": asdict(c.geometry),
            "formula": c.normalization.action.formula,
            "prompt": c.prompt_style.kind,
            "prompt_state_dims": c.prompt_style.state_dims or 0,
            "resize": c.resize,
            "constant_dims": c.constant_dims,
        },
    }


def _write_pipelines(c: Checkpoint, folder: Path) -> None:
    relative = _relative(c)
    normalizer = {
        "eps": c.normalization.action.eps,
        "features": {
            STATE: {"type": "STATE", "shape": [c.state_dim]},
            ACTION: {"type": "ACTION", "shape": [c.action_dim]},
        },
        "norm_map": _modes(c),
    }
    tokenizer = {
        "max_length": c.geometry.prompt_len,
        "task_key": "task",
        "padding_side": "right",
        "padding": "max_length",
        "truncation": True,
        "tokenizer_name": "tokenizer" if c.tokenizer else PALIGEMMA,
    }
    rename = {IMAGES + old: IMAGES + new for old, new in c.rename.items()}
    prompt = steps.STATE_PROMPT if c.prompt_style.reads_state else steps.NEWLINE
    device = ("device_processor", {"device": "cpu", "float_dtype": None})
    numbers = [(steps.RELATIVE, relative), (steps.NORMALIZE, normalizer)]
    text = [(prompt, {}), (steps.TOKENIZE, tokenizer)]
    order = [*numbers, *text, device] if c.prompt_style.reads_state else [*text, device, *numbers]
    before = [(steps.RENAME, {"rename_map": rename}), ("to_batch_processor", {})]
    after = [(steps.UNNORMALIZE, normalizer), (steps.ABSOLUTE, {"enabled": relative["enabled"]}), device]
    stats = _stats(STATE, c.normalization.state) | _stats(ACTION, c.normalization.action)
    _write_pipeline(folder / steps.PRE, [*before, *order], stats)
    _write_pipeline(folder / steps.POST, after, stats)


def _write_pipeline(file: Path, pipeline: list[tuple[str, dict]], stats: Mapping[str, torch.Tensor]) -> None:
    entries = []
    for i, (step, config) in enumerate(pipeline):
        entry: dict[str, Any] = {"registry_name": step, "config": config}
        if step in (steps.NORMALIZE, steps.UNNORMALIZE) and stats:
            entry["state_file"] = f"{file.stem}_step_{i}_{step}.safetensors"
            layout = {key: (t.dtype, tuple(t.shape)) for key, t in stats.items()}
            write_tensors(file.parent / entry["state_file"], layout, stats.items())
        entries.append(entry)
    _write_json(file, {"name": file.stem, "steps": entries})


def _stats(feature: str, transform: Transform) -> dict[str, torch.Tensor]:
    """'feature.statistic' -> numbers, in fp32 as LeRobot has them unless that would change them."""
    if transform.mode == "identity":
        return {}
    stats = {}
    for name, values in zip(STATISTICS[transform.mode], (transform.a, transform.b), strict=True):
        exact = np.array_equal(values, values.astype(np.float32))
        stats[f"{feature}.{name}"] = torch.tensor(values, dtype=torch.float32 if exact else torch.float64)
    return stats


def _modes(c: Checkpoint) -> dict[str, str]:
    names = {ours: theirs for theirs, ours in MODES.items()}
    n = c.normalization
    return {"VISUAL": "IDENTITY", "STATE": names[n.state.mode], "ACTION": names[n.action.mode]}


def _relative(c: Checkpoint) -> dict[str, Any]:
    """The relative step's config: LeRobot names absolute dimensions by words in their names."""
    names = list(c.action_names) if c.action_names else None
    if c.relative is None:
        return {"enabled": False, "exclude_joints": [], "action_names": names}
    mask = c.relative.mask + (False,) * (c.action_dim - len(c.relative.mask))
    for candidate in (names, [f"action_{i:03d}" for i in range(c.action_dim)]):
        if candidate and len(candidate) == c.action_dim:
            absolute = [name for name, relative in zip(candidate, mask, strict=True) if not relative]
            if mask_excluding(candidate, absolute, c.action_dim) == mask:
                break
    return {"enabled": True, "exclude_joints": absolute, "action_names": candidate}


def _write_tokenizer(c: Checkpoint, folder: Path) -> None:
    """A copy of the tokenizer, with Hugging Face's side files where there are some."""
    if c.tokenizer is None:
        return
    (folder / "tokenizer").mkdir()
    for name in (c.tokenizer.name, "tokenizer_config.json", "special_tokens_map.json"):
        source = c.tokenizer.parent / name
        if source.is_file():
            shutil.copyfile(source, folder / "tokenizer" / name)


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
