"""Ids of long texts, piece by piece: a text of megabytes would take gigabytes in ``tokenizers``."""

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
"""Characters of a piece, at least. A text that is not much longer is not cut."""
_LONGEST_STRETCH = 1 << 20
"""Characters of byte-level BPE after which even a word is cut."""
_BOUNDARY = re.compile(r"(?<=\w)(?= \w)")
"""A space between two words. No pre-tokenizer here joins what stands before it with the space or what follows."""


def cut_long_texts(encode: Encode, tokenizer: Tokenizer) -> Encode:
    """Return a function that gives the ids of ``encode``, but takes little memory for a long text.

    A long text is cut before a space between two words. Byte-level BPE and BERT's tokenizers split texts there first
    and look at each part alone, so the ids are the same. Byte-level BPE also cuts a stretch without such a space, after
    a million characters. Its ids may differ there, where two letters could have been joined. That is behind thousands
    of tokens, and so behind the limit of any model. All other tokenizers, such as Unigram, get whole texts.
    """
    config = json.loads(tokenizer.to_str())
    stretch = _find_stretch(config)
    if not stretch or any(_touches_words(token["content"]) for token in config["added_tokens"]):
        return encode
    return _PiecewiseEncode(encode, stretch)


def _find_stretch(tokenizer_json: dict[str, Any]) -> int:
    """Return the number of characters after which a text is cut anywhere; 0 if it must not be cut."""
    if is_plain_byte_level_bpe(tokenizer_json):
        return _LONGEST_STRETCH
    normalizer, split = tokenizer_json["normalizer"] or {}, tokenizer_json["pre_tokenizer"] or {}
    # A long word is one unknown token of WordPiece: two halves would be two tokens.
    is_bert = normalizer.get("type") in (None, "BertNormalizer") and split.get("type") == "BertPreTokenizer"
    return 1 << 62 if is_bert else 0


def _touches_words(token: str) -> bool:
    """Return whether an added token could stand on both sides of a boundary, or take its space."""
    return bool(re.search(r"\s|^\w|\w$", token))


class _PiecewiseEncode:
    """Texts to ids. An object, not a closure: data workers get it by pickling."""

    def __init__(self, encode: Encode, stretch: int) -> None:
        self._encode, self._stretch = encode, stretch

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        short = [text for text in texts if len(text) <= _PIECE]
        if len(short) == len(texts):
            return self._encode(texts)
        ids = iter(self._encode(short) if short else ())
        return [next(ids) if len(text) <= _PIECE else self._encode_long(text) for text in texts]

    def _encode_long(self, text: str) -> np.ndarray:
        # One call for each piece: what tokenizers needs for it is free again before the next one.
        return np.concatenate([self._encode([piece])[0] for piece in _cut(text, self._stretch)])


def _cut(text: str, stretch: int) -> Iterator[str]:
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
