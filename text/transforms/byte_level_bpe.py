"""Byte-level BPE (GPT-2's, RoBERTa's) on ``tiktoken``: the ids of ``tokenizers`` in a quarter of the time.

``tiktoken_encoder`` answers only for tokenizers that can be shown to give the same ids; the others,
and the few texts that are not for tiktoken, stay with ``tokenizers``. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tiktoken import Encoding
from tokenizers import Tokenizer

_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""Splits as ``pre_tokenizers.ByteLevel`` does, without its backtracking (tiktoken, r50k_base)."""

_LONGEST = 20_000
"""Characters. On a million spaces tiktoken panics; on one long word, older releases take quadratic time."""

_BETWEEN = "<|between|>"
"""Special token that no text here has: it separates the texts of one call, since a call costs as much as a sentence."""


def tiktoken_encoder(tokenizer: Tokenizer) -> TiktokenEncoder | None:
    """The fast way to the ids of a byte-level BPE, special tokens of the template left out.

    tiktoken merges the neighbours whose concatenation has the lowest rank, whatever pair they are;
    BPE merges the listed pair of the lowest rank. That is the same if every token, alone, is
    tokenized to itself, and no two merges give one token. For while the borders of a span stand, no
    merge has crossed them: what happened inside is what happens to the span alone. If the span is a
    token, that passes through one state of two parts only, the pair listed for the token. So two
    neighbours that concatenate to a token are always its listed pair.

    Returns:
        None if the tokenizer is of another kind, or the above does not hold for it.
    """
    tables = _tables(tokenizer.to_str())
    return None if tables is None else TiktokenEncoder(tokenizer, *tables)


class TiktokenEncoder:
    """Texts to ids, as ``encode_batch`` with the same tokenizer; made by ``tiktoken_encoder``."""

    def __init__(self, tokenizer: Tokenizer, encoding: Encoding, ids: np.ndarray, reserved: re.Pattern[str]) -> None:
        self._tokenizer = tokenizer
        self._encoding, self._ids, self._reserved = encoding, ids, reserved

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns:
            An int32 array for each text; those of one call may share memory.

        Raises:
            UnicodeEncodeError: A text has a lone surrogate.
        """
        # An added token that stands literally in a text becomes that token: tokenizers knows how.
        fast = [len(text) <= _LONGEST and not self._reserved.search(text) for text in texts]
        if all(fast):
            return self._encode(texts)
        ours = iter(self._encode([text for text, is_fast in zip(texts, fast, strict=True) if is_fast]))
        others = [text for text, is_fast in zip(texts, fast, strict=True) if not is_fast]
        theirs = iter(encode_batch(self._tokenizer, others))
        return [next(ours if is_fast else theirs) for is_fast in fast]

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        ranks = self._encoding.encode_to_numpy(_BETWEEN.join(texts), allowed_special={_BETWEEN})
        ends = [*np.flatnonzero(ranks == self._encoding.max_token_value).tolist(), len(ranks)]
        ids = self._ids[ranks]
        return [ids[start:end] for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Texts to ids, on ``tokenizers``: an int32 array for each, special tokens of the template left out."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


@functools.lru_cache(maxsize=4)  # questions and passages have one tokenizer, most often
def _tables(serialized: str) -> tuple[Encoding, np.ndarray, re.Pattern[str]] | None:
    """tiktoken's encoding; the ids by its ranks; what is left to tokenizers. None where the two could differ."""
    config = json.loads(serialized)
    if not is_plain_byte_level_bpe(config):
        return None
    byte_of, vocab = _byte_symbols(), config["model"]["vocab"]
    merged = [first + second for first, second in config["model"]["merges"]]
    tokens = [*byte_of, *merged]
    ids = [vocab[token] for token in tokens if token in vocab]
    if len(set(ids)) < len(tokens) or not byte_of.keys() >= set("".join(merged)):
        return None
    model = Tokenizer.from_str(serialized).model
    if any(len(model.tokenize(token)) != 1 for token in merged):
        return None
    ranks = {bytes([byte_of[symbol] for symbol in token]): rank for rank, token in enumerate(tokens)}
    encoding = Encoding("", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={_BETWEEN: len(ranks)})
    reserved = [_BETWEEN, *(token["content"] for token in config["added_tokens"])]
    return encoding, np.array([*ids, -1], dtype=np.int32), re.compile("|".join(map(re.escape, reserved)))


def is_plain_byte_level_bpe(tokenizer_json: dict[str, Any]) -> bool:
    """Return whether only the merges decide the ids: no normalizer, no dropout, no affixes, the usual split."""
    model, split = tokenizer_json["model"], tokenizer_json["pre_tokenizer"] or {}
    options = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    return (
        tokenizer_json["normalizer"] is None
        and model["type"] == "BPE"
        and not any(model.get(option) for option in options)
        and split.get("type") == "ByteLevel"
        and split.get("add_prefix_space") is False
        and split.get("use_regex") is True
    )


def _byte_symbols() -> dict[str, int]:
    """The character that stands for each byte: itself where one sees it, else the next from U+0100 on (GPT-2)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
