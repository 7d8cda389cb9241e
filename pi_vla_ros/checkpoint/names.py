# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Our parameter names <-> those of openpi's PyTorch models and LeRobot's policies (MODEL_SPEC 6).

The table works in both directions; where two rules fit, the first (more special) one counts.
"""

from __future__ import annotations

_PALIGEMMA = "paligemma_with_expert.paligemma.model."
_VISION = _PALIGEMMA + "vision_tower.vision_model."
_PREFIXES = (  # (ours, on disk)
    ("vision.layers.", _VISION + "encoder.layers."),
    ("vision.post_layernorm.", _VISION + "post_layernorm."),
    ("vision.", _VISION + "embeddings."),
    ("projector.", _PALIGEMMA + "multi_modal_projector.linear."),
    ("embed_tokens.", _PALIGEMMA + "language_model.embed_tokens."),
    ("language.", _PALIGEMMA + "language_model."),
    ("expert.", "paligemma_with_expert.gemma_expert.model."),
)
_HEADS = (  # the same in both
    "action_in_proj.",
    "action_out_proj.",
    "state_proj.",
    "action_time_mlp_in.",
    "action_time_mlp_out.",
    "time_mlp_in.",
    "time_mlp_out.",
)

OUTER = "model."  # LeRobot puts it before every name of a policy that it saves
EMBED_TOKENS = "embed_tokens.weight"
LM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"  # tied to embed_tokens, and stored instead of it
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"  # random; nothing reads it


def canonical(name: str) -> str | None:
    """Name on disk, with or without the outer 'model.' -> our name; None: not a tensor of these models."""
    name = name.removeprefix(OUTER)
    if name.startswith(_HEADS):
        return name
    for ours, theirs in _PREFIXES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return None


def on_disk(name: str) -> str:
    """Our name -> the name on disk, without the outer 'model.'."""
    if name.startswith(_HEADS):
        return name
    ours, theirs = next(rule for rule in _PREFIXES if name.startswith(rule[0]))
    return theirs + name[len(ours) :]
