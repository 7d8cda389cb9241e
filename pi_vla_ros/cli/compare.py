# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""compare A B: do two checkpoints, or one on two back ends, give the same actions for the same observations?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pi_vla_ros.checkpoint import Checkpoint, load_checkpoint
from pi_vla_ros.engine import (
    DeviceConfig,
    Engine,
    EngineArgs,
    EngineConfig,
    PI0Args,
    PI0Request,
    PI05Args,
    PI05Request,
)
from pi_vla_ros.processing.processor import Processor

BACKENDS = {  # name -> (target, dtype)
    "cpu-fp32": ("cpu", torch.float32),
    "cpu-bf16": ("cpu", torch.bfloat16),
    "cuda-bf16": ("cuda", torch.bfloat16),
    "cuda-fp8": ("cuda", torch.float8_e4m3fn),
}
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "fp8": 5e-2}  # relative error that the less exact back end may have
PROMPTS = ("pick up the red block", "fold the towel", "open the drawer", "put the cup on the plate")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: within the tolerance; 1: not; 2: cannot be compared."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument("a", type=Path, help="checkpoint folder: the reference")
    parser.add_argument("b", type=Path, help="checkpoint folder to judge; may be the same")
    parser.add_argument("--backend-a", choices=BACKENDS, default="cpu-fp32")
    parser.add_argument("--backend-b", choices=BACKENDS, default="cpu-fp32")
    parser.add_argument("--observations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tolerance", type=float, help="largest relative error; default 1e-4 in fp32, 2e-2 in bf16, 5e-2 in fp8"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args(arguments)
    tolerance = args.tolerance or max(TOLERANCES[name.partition("-")[2]] for name in (args.backend_a, args.backend_b))
    try:
        a, b = load_checkpoint(args.a), load_checkpoint(args.b)
        check_comparable(a, b)
        tokenizer = a.tokenizer or b.tokenizer
        seen = observations(a, args.observations, args.seed)
        answers = [
            run(checkpoint, backend, seen, args.seed, tokenizer)
            for checkpoint, backend in ((a, args.backend_a), (b, args.backend_b))
        ]
    except (ValueError, RuntimeError) as error:
        parser.exit(2, f"compare: {error}\n")
    report = differences(*answers)
    report = {"tolerance": tolerance, "passed": report["relative"] <= tolerance} | report
    print(json.dumps(report, indent=2) if args.json else as_text(report, a))
    return 0 if report["passed"] else 1


def check_comparable(a: Checkpoint, b: Checkpoint) -> None:
    """Refuse pairs that cannot be given the same observation or do not answer in the same dimensions."""
    for what in ("state_dim", "action_dim"):
        if getattr(a, what) != getattr(b, what):
            raise ValueError(f"{what}: {a.path} has {getattr(a, what)}, {b.path} has {getattr(b, what)}")
    if a.geometry.chunk != b.geometry.chunk:
        raise ValueError(f"chunk: {a.path} has {a.geometry.chunk}, {b.path} has {b.geometry.chunk}")
    if len(a.cameras) != len(b.cameras):
        raise ValueError(f"cameras: {a.path} has {', '.join(a.cameras)}; {b.path} has {', '.join(b.cameras)}")


def observations(checkpoint: Checkpoint, count: int, seed: int) -> list[tuple[list[np.ndarray], np.ndarray, str]]:
    """(images in the order of the cameras, state in policy units, prompt), seeded."""
    random = np.random.default_rng(seed)
    seen = []
    for i in range(count):
        colours = random.integers(0, 256, (len(checkpoint.cameras), 15, 20, 3), dtype=np.uint8)
        images = [image.repeat(16, axis=0).repeat(16, axis=1) for image in colours]  # 240 x 320 of coloured squares
        state = checkpoint.normalization.state.inverse(random.uniform(-0.9, 0.9, checkpoint.state_dim))
        seen.append((images, state, PROMPTS[i % len(PROMPTS)]))
    return seen


def run(checkpoint: Checkpoint, backend: str, seen, seed: int, tokenizer: Path | None) -> np.ndarray:
    """Actions (observations, chunk, action_dim) in policy units, one model in memory."""
    target, dtype = BACKENDS[backend]
    pi0 = checkpoint.geometry.model == "pi0"
    processor = Processor(checkpoint, tokenizer=str(tokenizer) if tokenizer else None)
    arguments = (PI0Args if pi0 else PI05Args)(checkpoint_dir=checkpoint.path)
    config = EngineConfig(device=DeviceConfig(target=target, params_dtype=dtype))
    noise = torch.Generator().manual_seed(seed)
    shape = (1, checkpoint.geometry.chunk, checkpoint.geometry.action_dim)
    answers = []
    with Engine(EngineArgs(plugin=checkpoint.geometry.model, plugin_args=arguments, config=config)) as engine:
        for images, state, prompt in seen:
            inputs = processor.prepare(dict(zip(checkpoint.cameras, images, strict=True)), state, prompt)
            request = {
                "pixel_values": inputs.pixel_values,
                "input_ids": inputs.input_ids,
                "lang_lens": inputs.lang_lens,
                "camera_mask": inputs.camera_mask,
                "noise": torch.randn(shape, generator=noise),
            }
            step = PI0Request(state=inputs.state, **request) if pi0 else PI05Request(**request)
            answers.append(processor.finish(engine.step(step)[0], inputs.raw_state))
    return np.stack(answers)


def differences(a: np.ndarray, b: np.ndarray) -> dict:
    """How b differs from a, overall and per action dimension.

    relative: norm of the difference over the norm of a (about a's mean, so that a large offset hides nothing).
    """
    per = [_difference(a[..., i], b[..., i]) for i in range(a.shape[-1])]
    scale = a - a.reshape(-1, a.shape[-1]).mean(0)
    overall = _difference(a, b) | {"relative": _ratio(np.linalg.norm(b - a), np.linalg.norm(scale))}
    return overall | {"dimensions": per}


def _difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    delta = np.abs(b - a)
    return {
        "mae": float(delta.mean()),
        "max": float(delta.max()),
        "relative": _ratio(np.linalg.norm(b - a), np.linalg.norm(a - a.mean())),
        "cosine": _ratio(float((a * b).sum()), float(np.linalg.norm(a) * np.linalg.norm(b)), 1.0),
    }


def _ratio(part: float, whole: float, none: float = 0.0) -> float:
    """part / whole; `none` where both are zero, infinite (or not a number) where only the whole is."""
    return none if part == whole == 0 else float(np.divide(part, whole))


def as_text(report: dict, checkpoint: Checkpoint) -> str:
    names = checkpoint.action_names or [f"action {i}" for i in range(len(report["dimensions"]))]
    rows = [("", "mean abs", "max abs", "relative", "cosine")]
    for name, row in (*zip(names, report["dimensions"], strict=True), ("all", report)):
        rows.append((name, f"{row['mae']:.3g}", f"{row['max']:.3g}", f"{row['relative']:.3g}", f"{row['cosine']:.6f}"))
    lines = [f"{row[0]:<28}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    word = "PASS" if report["passed"] else "FAIL"
    return "\n".join([*lines, f"{word}: relative error {report['relative']:.3g}, tolerance {report['tolerance']:.3g}"])


if __name__ == "__main__":
    raise SystemExit(main())
