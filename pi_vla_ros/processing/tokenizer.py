# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Text to token ids: PaliGemma's SentencePiece model, or the same as a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILES = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model")


class TokenizerError(ValueError):
    """The tokenizer is missing or cannot be read; the message says where to get it."""


@dataclass(frozen=True)
class Tokenizer:
    """bos: id before every prompt; vocab: number of ids; pieces: text -> ids, no special tokens."""

    path: Path
    bos: int
    vocab: int
    pieces: Callable[[str], list[int]]

    def encode(self, *texts: str) -> list[int]:
        """BOS, then each text tokenised on its own; no EOS."""
        return [self.bos, *(i for text in texts for i in self.pieces(text))]


def find_tokenizer(folder: Path) -> Path | None:
    """The first tokenizer file in `folder`."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read a tokenizer: a `tokenizer.model`, a `tokenizer.json`, or a folder with one of them."""
    path = Path(path)
    file = find_tokenizer(path) if path.is_dir() else path
    if file is None or not file.is_file():
        raise TokenizerError(f"{path}: no tokenizer here; expected {' or '.join(FILES[:2])}")
    return _hugging_face(file) if file.suffix == ".json" else _sentence_piece(file)


def _sentence_piece(file: Path) -> Tokenizer:
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_proto=file.read_bytes())
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{file}: not a SentencePiece model: {error}") from error
    if model.bos_id() < 0:
        raise TokenizerError(f"{file}: has no token that begins a text (bos)")
    return Tokenizer(file, model.bos_id(), model.get_piece_size(), lambda text: model.encode(text))


def _hugging_face(file: Path) -> Tokenizer:
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{file}: not a Hugging Face tokenizer: {error}") from error
    model.no_truncation()
    model.no_padding()
    bos = next((i for i in map(model.token_to_id, ("<bos>", "<s>")) if i is not None), None)
    if bos is None:
        raise TokenizerError(f"{file}: has no token that begins a text (<bos>)")
    return Tokenizer(file, bos, model.get_vocab_size(), lambda text: model.encode(text, add_special_tokens=False).ids)
