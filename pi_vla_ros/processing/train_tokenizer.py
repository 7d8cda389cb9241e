# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A small real tokenizer like PaliGemma's: its special ids, single digits, newline, byte fallback.

PaliGemma's own is not redistributable; checkpoints with random weights carry this one.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]  # ids 0, 1, 2, 3
BYTES = [f"<0x{i:02X}>" for i in range(256)]
SMALLEST = len(SPECIAL) + len(BYTES) + 120

_VERBS = "pick up|put down|place|grasp|move|push|pull|open|close|fold|wipe|pour|stack|insert|turn|lift"
_THINGS = "block|cube|towel|cup|bowl|plate|drawer|door|bottle|box|lid|spoon|shirt|sponge|peg|cable|apple|banana"
_COLOURS = "red|green|blue|yellow|orange|purple|white|black"
_PLACES = "on the table|in the box|into the bowl|on the plate|to the left|to the right|next to the cup"


def corpus() -> list[str]:
    """Sentences of the kind that robots are told."""
    lines = []
    verbs, things, colours, places = (words.split("|") for words in (_VERBS, _THINGS, _COLOURS, _PLACES))
    for i, verb in enumerate(verbs):
        for j, thing in enumerate(things):
            task = f"{verb} the {colours[(i + j) % len(colours)]} {thing} {places[(i * 3 + j) % len(places)]}"
            lines += [task, task.capitalize(), f"Task: {task}, State: {i} {j * 7} 128;\nAction: "]
    return lines


def train_tokenizer(folder: Path, vocab: int) -> Path:
    """Train on `corpus`, at most `vocab` tokens; writes and returns folder/tokenizer.json."""
    if vocab < SMALLEST:
        raise ValueError(f"vocab: {vocab} is too small for a tokenizer with byte fallback; allowed: {SMALLEST} or more")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d|\n"), "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab, 8192),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL + BYTES],
        initial_alphabet=[chr(c) for c in range(33, 127)] + ["▁", "\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return file
