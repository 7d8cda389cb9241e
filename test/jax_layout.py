# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Our weights in openpi's JAX layout, written from MODEL_SPEC 6.1 in numpy, independently of the loader.

As a script (with orbax: `python test/jax_layout.py`) it writes the trees in test/data/orbax.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

Tree = dict[str, np.ndarray]  # 'PaliGemma/llm/...' -> array


def jax_tree(weights: Tree, model: str, heads: tuple[int, int]) -> Tree:
    """Canonical weights -> JAX tree. heads: of the vision tower and of the Gemma stacks."""
    tree: Tree = {}

    def stack(pattern: str) -> np.ndarray:
        count = sum(pattern.replace("*", str(i)) in weights for i in range(99))
        return np.stack([weights[pattern.replace("*", str(i))] for i in range(count)])

    def linear(path: str, name: str, layers: bool = False) -> None:
        get = stack if layers else weights.__getitem__
        tree[f"{path}/kernel"] = np.swapaxes(get(f"{name}.weight"), -1, -2)
        tree[f"{path}/bias"] = get(f"{name}.bias")

    img, block, llm = "PaliGemma/img", "PaliGemma/img/Transformer/encoderblock", "PaliGemma/llm"
    tree[f"{img}/embedding/kernel"] = weights["vision.patch_embedding.weight"].transpose(2, 3, 1, 0)
    tree[f"{img}/embedding/bias"] = weights["vision.patch_embedding.bias"]
    tree[f"{img}/pos_embedding"] = weights["vision.position_embedding.weight"][None]
    for k in (0, 1):
        tree[f"{block}/LayerNorm_{k}/scale"] = stack(f"vision.layers.*.layer_norm{k + 1}.weight")
        tree[f"{block}/LayerNorm_{k}/bias"] = stack(f"vision.layers.*.layer_norm{k + 1}.bias")
        linear(f"{block}/MlpBlock_0/Dense_{k}", f"vision.layers.*.mlp.fc{k + 1}", layers=True)
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        w, b = (stack(f"vision.layers.*.self_attn.{ours}.{end}") for end in ("weight", "bias"))
        layers, width = b.shape
        tree[f"{attention}/{theirs}/kernel"] = w.transpose(0, 2, 1).reshape(layers, width, heads[0], -1)
        tree[f"{attention}/{theirs}/bias"] = b.reshape(layers, heads[0], -1)
    w = stack("vision.layers.*.self_attn.out_proj.weight")
    tree[f"{attention}/out/kernel"] = w.transpose(0, 2, 1).reshape(len(w), heads[0], -1, w.shape[1])
    tree[f"{attention}/out/bias"] = stack("vision.layers.*.self_attn.out_proj.bias")
    tree[f"{img}/Transformer/encoder_norm/scale"] = weights["vision.post_layernorm.weight"]
    tree[f"{img}/Transformer/encoder_norm/bias"] = weights["vision.post_layernorm.bias"]
    linear(f"{img}/head", "projector")
    tree[f"{llm}/embedder/input_embedding"] = weights["embed_tokens.weight"]
    for ours, end in (("language", ""), ("expert", "_1")):
        at = f"{ours}.layers.*.self_attn."
        q, k, v, o = (stack(f"{at}{p}_proj.weight") for p in "qkvo")
        n, h = len(q), heads[1]
        tree[f"{llm}/layers/attn/q_einsum{end}/w"] = q.reshape(n, h, -1, q.shape[2]).transpose(0, 1, 3, 2)
        kv = np.stack([k.transpose(0, 2, 1), v.transpose(0, 2, 1)], axis=1)
        tree[f"{llm}/layers/attn/kv_einsum{end}/w"] = kv[:, :, None]
        tree[f"{llm}/layers/attn/attn_vec_einsum{end}/w"] = o.transpose(0, 2, 1).reshape(n, h, -1, o.shape[1])
        gate, up, down = (stack(f"{ours}.layers.*.mlp.{p}_proj.weight") for p in ("gate", "up", "down"))
        tree[f"{llm}/layers/mlp{end}/gating_einsum"] = np.stack(
            [gate.transpose(0, 2, 1), up.transpose(0, 2, 1)], axis=1
        )
        tree[f"{llm}/layers/mlp{end}/linear"] = down.transpose(0, 2, 1)
        for theirs, norm in (("pre_attention", "input"), ("pre_ffw", "post_attention")):
            path, name = f"{llm}/layers/{theirs}_norm{end}", f"{ours}.layers.*.{norm}_layernorm"
            if model == "pi05" and end:
                linear(f"{path}/Dense_0", f"{name}.dense", layers=True)
            else:
                tree[f"{path}/scale"] = stack(f"{name}.weight")
        if model == "pi05" and end:
            linear(f"{llm}/final_norm{end}/Dense_0", f"{ours}.norm.dense")
        else:
            tree[f"{llm}/final_norm{end}/scale"] = weights[f"{ours}.norm.weight"]
    extra = ("time_mlp_in", "time_mlp_out")
    if model == "pi0":
        extra = ("state_proj", "action_time_mlp_in", "action_time_mlp_out")
    for head in ("action_in_proj", "action_out_proj", *extra):
        linear(head, head)
    return tree


def add_lora(tree: Tree, rank: int, random: np.random.Generator) -> tuple[Tree, Tree]:
    """(tree with LoRA leaves, tree with the same merged), by openpi's einsums."""
    adapted, merged = dict(tree), dict(tree)
    for path, w in tree.items():
        if "/attn/" in path and path.endswith("/w"):
            names = (path[:-1] + "lora_a", path[:-1] + "lora_b")
        elif path.endswith(("gating_einsum", "linear")):
            names = (path + "_lora_a", path + "_lora_b")
        else:
            continue
        a = random.normal(0, 0.1, (*w.shape[:-1], rank)).astype(np.float32)
        b = random.normal(0, 0.1, (*w.shape[:-2], rank, w.shape[-1])).astype(np.float32)
        adapted |= {names[0]: a, names[1]: b}
        if "attn_vec_einsum" in path:  # BTNH,NHL->BTL then BTL,NLD->BTD: both sum over heads N
            merged[path] = w + np.stack([np.einsum("nhl,mld->nhd", la, lb) for la, lb in zip(a, b, strict=True)])
        else:
            merged[path] = w + a @ b
    return adapted, merged


def write_tree(folder: Path, tree: Tree, value: bool, ocdbt: bool = True) -> None:
    """The files that orbax writes, made with tensorstore. value: end every path in 'value', as training does."""
    import tensorstore

    folder.mkdir(parents=True)
    metadata = {}
    for path, array in tree.items():
        keys = ("params", *path.split("/"), *(("value",) if value else ()))
        name = ".".join(keys)
        metadata[str(keys)] = {"key_metadata": [{"key": key, "key_type": 2} for key in keys]}
        store = {"driver": "file", "path": f"{folder}/{name}/"}
        if ocdbt:
            store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": store, "metadata": {"compressor": {"id": "zstd"}}}
        created = tensorstore.open(spec, create=True, dtype=array.dtype.name, shape=array.shape).result()
        created.write(np.ascontiguousarray(array)).result()
    (folder / "_METADATA").write_text(json.dumps({"tree_metadata": metadata, "use_zarr3": False}))


if __name__ == "__main__":
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from safetensors.numpy import load_file

    data = Path(__file__).parent / "data" / "orbax"
    for name in ("pi05", "pi0"):
        weights = load_file(data / f"{name}.safetensors")
        tree = jax_tree(weights, name, (2, 2))
        nested: dict = {}
        for path, array in tree.items():
            place = nested
            for key in path.split("/"):
                place = place.setdefault(key, {})
            place["value"] = array
        if name == "pi0":  # not from training: no 'value'; and zarr 3
            nested = {}
            for path, array in tree.items():
                place, keys = nested, path.split("/")
                for key in keys[:-1]:
                    place = place.setdefault(key, {})
                place[keys[-1]] = jnp.asarray(array)
        with ocp.PyTreeCheckpointer(use_zarr3=name == "pi0") as checkpointer:
            checkpointer.save((data / name / "params").resolve(), {"params": nested})
