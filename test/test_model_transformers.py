# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A second witness beside the golden files: Hugging Face's SigLIP and Gemma with the same weights, in fp32."""

import pytest
import torch

from pi_vla_ros.checkpoint import random_model
from pi_vla_ros.model import gemma
from pi_vla_ros.model.geometry import GemmaGeometry, tiny

transformers = pytest.importorskip("transformers")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model():
    return random_model(tiny("pi0"), seed=2)


def copy(ours: torch.nn.Module, theirs: torch.nn.Module, prefixes: dict[str, str]) -> None:
    """Our weights into theirs; every tensor on both sides is used."""
    state = {}
    for name, tensor in ours.state_dict().items():
        prefix = next(p for p in prefixes if name.startswith(p))
        state[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    theirs.load_state_dict(state)


@torch.no_grad()
def test_vision_tower(model):
    g = model.geometry.vision
    config = transformers.SiglipVisionConfig(
        hidden_size=g.width,
        num_hidden_layers=g.depth,
        intermediate_size=g.mlp,
        num_attention_heads=g.heads,
        patch_size=g.patch,
        image_size=g.image,
        vision_use_head=False,
    )
    theirs = transformers.SiglipVisionModel(config).eval()
    # some versions keep the parts one level deeper
    inner = "vision_model." if any(n.startswith("vision_model.") for n in theirs.state_dict()) else ""
    places = {"layers.": "encoder.layers.", "post_layernorm.": "post_layernorm.", "": "embeddings."}
    copy(model.vision, theirs, {ours: inner + place for ours, place in places.items()})
    images = torch.rand(2, 3, g.image, g.image, generator=torch.manual_seed(0)) * 2 - 1
    assert (model.vision(images) - theirs(images).last_hidden_state).abs().max() <= CLOSE


def hugging_face(ours: gemma.Gemma, g: GemmaGeometry):
    config = transformers.GemmaConfig(
        vocab_size=8,
        hidden_size=g.width,
        num_hidden_layers=g.depth,
        intermediate_size=g.mlp,
        num_attention_heads=g.heads,
        num_key_value_heads=1,
        head_dim=g.head_dim,
        hidden_activation="gelu_pytorch_tanh",
        attn_implementation="eager",
    )
    theirs = transformers.GemmaModel(config).eval()
    state = ours.state_dict() | {"embed_tokens.weight": torch.zeros(8, g.width)}
    theirs.load_state_dict(state)
    return theirs


@torch.no_grad()
def test_prefix_then_suffix_through_shared_attention(model):
    """Both stacks: the language model's keys and values in a cache, then the expert's layers on top of it."""
    g, random = model.geometry, torch.manual_seed(1)
    prefix = torch.randn(2, 9, g.language.width, generator=random)
    suffix = torch.randn(2, 5, g.expert.width, generator=random)
    cache, theirs = transformers.DynamicCache(), []
    for stack, geometry, x, seen in (
        (model.language, g.language, prefix, 0),
        (model.expert, g.expert, suffix, prefix.shape[1]),
    ):
        net = hugging_face(stack, geometry)
        positions = torch.arange(x.shape[1])[None] + seen
        rotary = net.rotary_emb(x, positions)
        mask = torch.zeros(2, 1, x.shape[1], seen + x.shape[1])  # everything may be seen
        for layer in net.layers:
            x = layer(
                x,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
        theirs.append(net.norm(x))

    def run(stack, x, positions, before):
        rope = gemma.rope_table(positions, g.language.head_dim, x.dtype)
        keys = x.shape[1] + (before[0][0].shape[2] if before else 0)
        bias = gemma.mask_bias(torch.ones(2, x.shape[1], keys, dtype=torch.bool))
        kept = []
        for i, layer in enumerate(stack.layers):
            x, own = layer(x, rope, bias, before=before[i] if before else None)
            kept.append(own)
        return stack.norm(x, None)[0], kept

    ours, kept = run(model.language, prefix, torch.arange(9)[None].expand(2, -1), None)
    assert (ours - theirs[0]).abs().max() <= CLOSE
    ours, _ = run(model.expert, suffix, 9 + torch.arange(5)[None].expand(2, -1), kept)
    assert (ours - theirs[1]).abs().max() <= CLOSE
