# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""openpi's JAX arrays -> canonical tensors (MODEL_SPEC 6.1): transpose, split, merge LoRA.

Layers are stacked on the first axis; a conversion sees one layer, so that no more need be in memory.
Conversions are views, which work on 'meta' tensors too: the same code tells the shapes beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

# a layer (or a whole array that is not stacked) -> (name, tensor); '*' stands for the layer
Convert = Callable[[Tensor, re.Match], Iterator[tuple[str, Tensor]]]
_ENDING = {"kernel": "weight", "bias": "bias", "scale": "weight"}


def _linear(name: str) -> Convert:
    """A kernel, transposed; a bias or a norm's scale as it is."""

    def convert(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:
        filled = name.format(stack=_stack(match), head=match.groupdict().get("head"))
        yield f"{filled}.{_ENDING[match['end']]}", x.mT if match["end"] == "kernel" else x

    return convert


def _vision_heads(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:
    """query, key, value: kernel [W, heads, D] or bias [heads, D]; out: kernel [heads, D, W] or bias [W]."""
    part = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}[match["part"]]
    heads_first = match["part"] == "out"
    x = x.flatten() if match["end"] == "bias" else (x.flatten(0, 1) if heads_first else x.flatten(1, 2)).mT
    yield f"vision.layers.*.self_attn.{part}.{_ENDING[match['end']]}", x


def _patches(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:
    yield f"vision.patch_embedding.{_ENDING[match['end']]}", x.permute(3, 2, 0, 1) if x.ndim == 4 else x


def _position(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:
    yield "vision.position_embedding.weight", x[0]


def _embedding(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:
    yield "embed_tokens.weight", x


def _queries(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:  # [heads, W, D]
    yield f"{_stack(match)}.layers.*.self_attn.q_proj.weight", x.mT.flatten(0, 1)


def _keys_values(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:  # [2, 1, W, D]
    for name, part in zip("kv", x, strict=True):
        yield f"{_stack(match)}.layers.*.self_attn.{name}_proj.weight", part.mT.flatten(0, 1)


def _outputs(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:  # [heads, D, W]
    yield f"{_stack(match)}.layers.*.self_attn.o_proj.weight", x.flatten(0, 1).mT


def _gating(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:  # [2, W, M]
    for name, part in zip(("gate", "up"), x, strict=True):
        yield f"{_stack(match)}.layers.*.mlp.{name}_proj.weight", part.mT


def _down(x: Tensor, match: re.Match) -> Iterator[tuple[str, Tensor]]:  # [M, W]
    yield f"{_stack(match)}.layers.*.mlp.down_proj.weight", x.mT


def _stack(match: re.Match) -> str:
    return "expert" if match.groupdict().get("expert") else "language"


_END, _EXPERT = r"/(?P<end>kernel|bias|scale)", r"(?P<expert>_1)?"
_BLOCK, _LAYERS = "PaliGemma/img/Transformer/encoderblock/", "PaliGemma/llm/layers/"
_ATTENTION = _BLOCK + r"MultiHeadDotProductAttention_0/(?P<part>query|key|value|out)"
_HEADS = "|".join(("action_in_proj", "action_out_proj", "state_proj", "(action_)?time_mlp_(in|out)"))
_STACKED: dict[str, tuple[set[int], Convert]] = {  # path -> (axes with that of the layers, conversion)
    _BLOCK + "LayerNorm_0" + _END: ({2}, _linear("vision.layers.*.layer_norm1")),
    _BLOCK + "LayerNorm_1" + _END: ({2}, _linear("vision.layers.*.layer_norm2")),
    _BLOCK + "MlpBlock_0/Dense_0" + _END: ({2, 3}, _linear("vision.layers.*.mlp.fc1")),
    _BLOCK + "MlpBlock_0/Dense_1" + _END: ({2, 3}, _linear("vision.layers.*.mlp.fc2")),
    _ATTENTION + _END: ({2, 3, 4}, _vision_heads),
    _LAYERS + "attn/q_einsum" + _EXPERT + "/w": ({4}, _queries),
    _LAYERS + "attn/kv_einsum" + _EXPERT + "/w": ({5}, _keys_values),
    _LAYERS + "attn/attn_vec_einsum" + _EXPERT + "/w": ({4}, _outputs),
    _LAYERS + "mlp" + _EXPERT + "/gating_einsum": ({4}, _gating),
    _LAYERS + "mlp" + _EXPERT + "/linear": ({3}, _down),
    _LAYERS + "pre_attention_norm" + _EXPERT + _END: ({2}, _linear("{stack}.layers.*.input_layernorm")),
    _LAYERS + "pre_ffw_norm" + _EXPERT + _END: ({2}, _linear("{stack}.layers.*.post_attention_layernorm")),
    _LAYERS + "pre_attention_norm_1/Dense_0" + _END: (
        {2, 3},
        _linear("expert.layers.*.input_layernorm.dense"),
    ),
    _LAYERS + "pre_ffw_norm_1/Dense_0" + _END: (
        {2, 3},
        _linear("expert.layers.*.post_attention_layernorm.dense"),
    ),
}
_WHOLE: dict[str, tuple[set[int], Convert]] = {
    "PaliGemma/img/embedding" + _END: ({1, 4}, _patches),
    "PaliGemma/img/pos_embedding": ({3}, _position),
    "PaliGemma/img/Transformer/encoder_norm" + _END: ({1}, _linear("vision.post_layernorm")),
    "PaliGemma/img/head" + _END: ({1, 2}, _linear("projector")),
    "PaliGemma/llm/embedder/input_embedding": ({2}, _embedding),
    "PaliGemma/llm/final_norm" + _EXPERT + _END: ({1}, _linear("{stack}.norm")),
    "PaliGemma/llm/final_norm_1/Dense_0" + _END: ({1, 2}, _linear("expert.norm.dense")),
    f"(?P<head>{_HEADS})" + _END: ({1, 2}, _linear("{head}")),
}


@dataclass(frozen=True)
class Rule:
    """How one array becomes tensors; `stacked`: layer by layer."""

    match: re.Match
    convert: Convert
    stacked: bool

    def tensors(self, x: Tensor, layer: int = 0) -> list[tuple[str, Tensor]]:
        """`x`: the array, or one layer of it -> (canonical name, view of x)."""
        return [(name.replace("*", str(layer)), view) for name, view in self.convert(x, self.match)]


def rule_for(path: str, axes: int) -> Rule | None:
    """The rule for a leaf ('PaliGemma/llm/...') with that many axes; None: not one of these models'."""
    for table in (_STACKED, _WHOLE):
        for pattern, (allowed, convert) in table.items():
            match = re.fullmatch(pattern, path)
            if match and axes in allowed:
                return Rule(match, convert, table is _STACKED)
    return None


def lora_of(path: str) -> tuple[str, str] | None:
    """A LoRA leaf's path -> (path of the weight that it changes, 'a' or 'b')."""
    match = re.fullmatch(r"(.*?)(/lora|_lora)_([ab])", path)
    return match and (match[1] + ("/w" if match[2] == "/lora" else ""), match[3])


def merge_lora(path: str, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One layer's w + a·b; openpi's scale is alpha / rank = 1 in all its variants.

    attn_vec_einsum is different: its einsum sums over heads before b, so every head sees the sum of
    all b.
    """
    return w + a @ (b.sum(dim=0, keepdim=True) if "attn_vec_einsum" in path else b)
