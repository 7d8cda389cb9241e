# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One observation in policy units -> the model's inputs; the model's answer -> actions in policy units.

The order of the steps is the references': normalise the raw state, write the prompt from the
normalised, unpadded state, pad the state; and back: cut to the robot's dimensions, unnormalise,
make absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pi_vla_ros.processing.images import RESIZES, Resize, check_frame, square_images
from pi_vla_ros.processing.prompt import prompt_tokens
from pi_vla_ros.processing.tokenizer import TokenizerError, load_tokenizer

if TYPE_CHECKING:
    from pi_vla_ros.checkpoint import Checkpoint
    from pi_vla_ros.robot import RobotConfig


@dataclass(frozen=True)
class Inputs:
    """What the model is given for one observation; batch of one. C cameras, S image size, L prompt length.

    frames:    one a camera, as it came; None where the camera is absent.
    raw_state: (n,) float64, policy units: what relative actions are relative to.
    """

    frames: tuple[np.ndarray | None, ...]
    input_ids: Tensor  # (1, L) int64, right-padded with 0
    lang_lens: Tensor  # (1,) int64
    state: Tensor | None  # (1, action_dim) float32, normalised and zero-padded; None where the model reads no state
    raw_state: np.ndarray
    size: int
    resize: Resize

    @property
    def pixel_values(self) -> Tensor:
        """(1, C, 3, S, S) float32 in [-1, 1]; resized here and now, for whoever has no engine to do it."""
        return square_images([self.frames], self.size, self.resize)

    @property
    def camera_mask(self) -> Tensor:
        """(1, C) bool, False where a camera is absent."""
        return torch.tensor([[frame is not None for frame in self.frames]])


class Processor:
    """Both directions for one checkpoint. Holds the tokenizer; otherwise without state.

    resize and tokenizer override what the checkpoint says. With `robot`, its joints must fit the
    checkpoint's dimensions; where the checkpoint leaves them open (padded base models), the robot's
    count. Raises TokenizerError when no tokenizer is found, ValueError when the robot does not fit.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        robot: RobotConfig | None = None,
        resize: Resize | None = None,
        tokenizer: str | None = None,
        cut_prompt: bool = False,
    ):
        geometry = checkpoint.geometry
        self.cameras, self.rename = checkpoint.cameras, checkpoint.rename
        self.size, self.prompt_len, self.padded = (
            geometry.vision.image,
            geometry.prompt_len,
            geometry.action_dim,
        )
        self.normalization, self.relative = checkpoint.normalization, checkpoint.relative
        self.style, self.cut_prompt = checkpoint.prompt_style, cut_prompt
        self.model_reads_state = geometry.model == "pi0"
        self.resize: Resize = resize or checkpoint.resize
        if self.resize not in RESIZES:
            raise ValueError(f"resize: is '{self.resize}'; allowed: {', '.join(RESIZES)}")
        self.state_dim = _fitting("state", checkpoint.state_dim, checkpoint.open_dims, robot)
        self.action_dim = _fitting("action", checkpoint.action_dim, checkpoint.open_dims, robot)
        file = tokenizer or checkpoint.tokenizer
        if file is None:
            raise TokenizerError(
                f"{checkpoint.path}: no tokenizer found. π0 and π0.5 use PaliGemma's: take tokenizer.json of "
                "google/paligemma-3b-pt-224 (Hugging Face, licence to accept) or "
                "gs://big_vision/paligemma_tokenizer.model, and put it into the checkpoint folder or name it "
                "with the parameter 'tokenizer'"
            )
        self.tokenizer = load_tokenizer(file)
        if self.tokenizer.vocab > geometry.vocab:
            raise TokenizerError(
                f"{file}: has {self.tokenizer.vocab} tokens, the model knows {geometry.vocab}: "
                "not this model's tokenizer"
            )

    def prepare(self, images: Mapping[str, np.ndarray], state: np.ndarray, prompt: str) -> Inputs:
        """images: slot -> (H, W, 3) uint8 RGB; state: (state_dim,) policy units; a slot not given is masked.

        Raises ValueError naming the image or the state, PromptError (a ValueError) for the prompt.
        """
        raw = np.asarray(state, np.float64)
        if raw.shape != (self.state_dim,):
            raise ValueError(f"state: must have {self.state_dim} entries, has shape {raw.shape}")
        if not np.isfinite(raw).all():
            raise ValueError(f"state: must be finite, is {raw}")
        frames = self.frames(images)
        # LeRobot's state is fp32 before it is normalised, openpi's is fp64: it decides bins at
        # their edges
        exact = np.float64 if self.normalization.state.formula == "openpi" else np.float32
        normal = self.normalization.state.forward(raw.astype(exact))
        ids = prompt_tokens(self.style, self.tokenizer, prompt, normal, self.prompt_len, self.cut_prompt)
        padded = torch.zeros(1, self.prompt_len, dtype=torch.int64)
        padded[0, : len(ids)] = torch.tensor(ids)
        return Inputs(
            frames=frames,
            input_ids=padded,
            lang_lens=torch.tensor([len(ids)]),
            state=torch.from_numpy(self._pad(normal[None])) if self.model_reads_state else None,
            raw_state=raw,
            size=self.size,
            resize=self.resize,
        )

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptError when `prompt` is empty or too long, with any state (its longest bins)."""
        worst = np.full(self.state_dim, 0.99)
        prompt_tokens(self.style, self.tokenizer, prompt, worst, self.prompt_len, self.cut_prompt)

    def finish(self, actions: np.ndarray | Tensor, raw_state: np.ndarray) -> np.ndarray:
        """(H, padded) model units -> (H, action_dim) float64 policy units. raw_state: `Inputs.raw_state`."""
        actions = np.asarray(actions, np.float64)[:, : self.action_dim]
        actions = self.normalization.action.inverse(actions)
        return actions if self.relative is None else self.relative.to_absolute(actions, raw_state)

    def to_model(self, actions: np.ndarray, raw_state: np.ndarray) -> np.ndarray:
        """The inverse of `finish` for the present state: (n, action_dim) policy units -> (n, padded) float32.

        Real-time chunking feeds back what is still to be executed this way.
        """
        actions = np.asarray(actions, np.float64)
        if self.relative is not None:
            actions = self.relative.to_relative(actions, raw_state)
        return self._pad(self.normalization.action.forward(actions))

    def frames(self, images: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, ...]:
        """images as in `prepare` -> one a camera of the model, None where it is absent. Raises ValueError."""
        seen = {self.rename.get(slot, slot): image for slot, image in images.items()}
        unknown = sorted(set(seen) - set(self.cameras))
        if unknown:
            raise ValueError(
                f"images: the model has no camera {', '.join(unknown)}; allowed: {', '.join(self.cameras)}"
            )
        if not seen:
            raise ValueError(f"images: at least one camera is needed of {', '.join(self.cameras)}")
        for image in seen.values():
            check_frame(image, "image")
        return tuple(seen.get(slot) for slot in self.cameras)

    def _pad(self, x: np.ndarray) -> np.ndarray:
        """(n, dims) -> (n, padded) float32."""
        return np.pad(x.astype(np.float32), ((0, 0), (0, self.padded - x.shape[1])))


def _fitting(what: str, dims: int, is_open: bool, robot: RobotConfig | None) -> int:
    joints = dims if robot is None else len(robot.state_entries if what == "state" else robot.joints)
    if joints > dims or (joints < dims and not is_open):
        raise ValueError(f"robot '{robot.name}' has {joints} joints, the checkpoint's {what} has {dims} dimensions")
    return joints
