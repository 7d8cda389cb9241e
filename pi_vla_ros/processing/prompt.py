# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The text that the language model reads, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pi_vla_ros.processing.tokenizer import Tokenizer

BINS = 256
_EDGES = np.linspace(-1.0, 1.0, BINS + 1)[:-1]  # left edges; bins are closed on the left


class PromptError(ValueError):
    """The prompt cannot be used; the message says why and what is allowed."""


@dataclass(frozen=True)
class PromptStyle:
    """How a checkpoint was taught to read its task.

    kind:       'pi05': task and state bins in one sentence; 'pi0': the cleaned task, then a newline
                (openpi; also π0.5 that was trained without the state); 'pi0_raw': the task as it
                is, ending in a newline (LeRobot).
    state_dims: π0.5: the state is padded with zeros to this many dimensions first (LeRobot 0.4
    does); None: not.
    """

    kind: Literal["pi05", "pi0", "pi0_raw"]
    state_dims: int | None = None

    @property
    def reads_state(self) -> bool:
        return self.kind == "pi05"


def clean(task: str) -> str:
    """What both references do to a task, but LeRobot's π0: outer space off, '_' and newlines to spaces."""
    return task.strip().replace("_", " ").replace("\n", " ")


def state_bins(state: np.ndarray) -> np.ndarray:
    """Normalised state -> bin numbers: [-1, 1) in 256 steps, not clipped: -1 below, 255 at 1 and above."""
    return np.digitize(state, _EDGES) - 1


def prompt_pieces(style: PromptStyle, task: str, state: np.ndarray | None = None) -> tuple[str, ...]:
    """The prompt as pieces that are tokenised one by one. state: (dims,) normalised, not padded (π0.5).

    Raises PromptError for an empty task or a state with NaN or infinity (which would look like a
    bin).
    """
    if not task.strip():
        raise PromptError("prompt: is empty; allowed: one sentence that says the task")
    if style.kind == "pi0_raw":
        return (task if task.endswith("\n") else task + "\n",)
    if style.kind == "pi0":
        return clean(task), "\n"
    if state is None or not np.isfinite(state).all():
        raise PromptError(f"state: must be finite to enter the prompt, is {state}")
    if style.state_dims is not None:
        state = np.pad(state, (0, max(0, style.state_dims - len(state))))
    return (f"Task: {clean(task)}, State: {' '.join(map(str, state_bins(state)))};\nAction: ",)


def prompt_tokens(
    style: PromptStyle,
    tokenizer: Tokenizer,
    task: str,
    state: np.ndarray | None,
    limit: int,
    cut: bool = False,
) -> list[int]:
    """Token ids with BOS, without EOS or padding, at most `limit`.

    The references silently cut what is too long, which for π0.5 cuts off the state and 'Action:'.
    Here that is an error unless `cut` asks for it.
    """
    ids = tokenizer.encode(*prompt_pieces(style, task, state))
    if len(ids) > limit and not cut:
        raise PromptError(f"prompt: is {len(ids)} tokens long, the model reads {limit}; allowed: a shorter sentence")
    return ids[:limit]
