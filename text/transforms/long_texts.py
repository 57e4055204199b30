"""Piecewise encoding of long texts. ``tokenizers`` would need gigabytes of memory for a text of megabytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from text.transforms.byte_level_bpe import is_plain_byte_level_bpe
from text.transforms.layout import Encode

_PIECE = 16_000
"""Minimum number of characters in a piece. Shorter texts are not split."""
_LONGEST_STRETCH = 1 << 20
"""Number of characters without a boundary after which byte-level BPE splits even inside a word."""
_BOUNDARY = re.compile(r"(?<=\w)(?= \w)")
"""A space between two words. The supported pre-tokenizers always split before it."""


def cut_long_texts(encode: Encode, tokenizer: Tokenizer) -> Encode:
    """Return a function with the same ids as ``encode`` that needs little memory for a long text.

    A long text is split before a space between two words. Byte-level BPE and BERT tokenizers also split there and
    encode each part alone, so the ids are the same. Byte-level BPE also splits after a million characters without
    such a space. The ids may differ there, but only after more tokens than any model
    accepts. Other tokenizers, such as Unigram, always get whole texts.
    """
    config = json.loads(tokenizer.to_str())
    stretch = _find_stretch(config)
    if not stretch or any(_touches_words(token["content"]) for token in config["added_tokens"]):
        return encode
    return _PiecewiseEncode(encode, stretch)


def _find_stretch(tokenizer_json: dict[str, Any]) -> int:
    """Return the number of characters after which a text may be split anywhere, or 0 if it must not be split."""
    if is_plain_byte_level_bpe(tokenizer_json):
        return _LONGEST_STRETCH
    normalizer, split = tokenizer_json["normalizer"] or {}, tokenizer_json["pre_tokenizer"] or {}
    # WordPiece turns a long word into one unknown token, but two halves of it into two. So it only splits at spaces.
    is_bert = normalizer.get("type") in (None, "BertNormalizer") and split.get("type") == "BertPreTokenizer"
    return 1 << 62 if is_bert else 0


def _touches_words(token: str) -> bool:
    """Return whether an added token could match across a boundary, or include the space at a boundary."""
    return bool(re.search(r"\s|^\w|\w$", token))


class _PiecewiseEncode:
    """Callable that encodes long texts in pieces. It is a class because a closure cannot be pickled for workers."""

    def __init__(self, encode: Encode, stretch: int) -> None:
        self._encode, self._stretch = encode, stretch

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        short = [text for text in texts if len(text) <= _PIECE]
        if len(short) == len(texts):
            return self._encode(texts)
        ids = iter(self._encode(short) if short else ())
        return [next(ids) if len(text) <= _PIECE else self._encode_long(text) for text in texts]

    def _encode_long(self, text: str) -> np.ndarray:
        # Each piece has its own call, so that tokenizers frees its memory before the next piece.
        return np.concatenate([self._encode([piece])[0] for piece in _split(text, self._stretch)])


def _split(text: str, stretch: int) -> Iterator[str]:
    """Yield the pieces of a text."""
    start = 0
    while len(text) - start > _PIECE:
        limit = min(start + stretch, len(text))
        found = _BOUNDARY.search(text, start + _PIECE, limit)
        end = found.start() if found else limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
