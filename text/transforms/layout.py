"""Assembly of token ids into one TokenBatch: special tokens, truncation, padding and masks.

The subclasses convert texts to ids: ``Tokenize`` with ``tokenizers``, and ``TorchtextTokenize`` with torchtext.

Dimensions: N texts; L tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from text.records import TokenBatch

Encode = Callable[[Sequence[str]], list[np.ndarray]]
Text = str | np.ndarray
"""A text as a string, or as token ids."""

_NOTHING = np.empty(0, dtype=np.int64)
_PROBES = (*map(chr, range(ord("!"), 127)), " a", "  a", " ", "\ta", "\na", "'s", "é", "北", "\u0301", "▁a")
"""Beginnings of texts. A tokenizer could merge each with the end of a prompt."""


class Templates(NamedTuple):
    """Special-token ids before, between and after the parts of a row. All arrays are int64."""

    single: Sequence[np.ndarray]
    """Two arrays: ids before and after a single text."""
    pair: Sequence[np.ndarray]
    """Three arrays: ids before, between and after title and text."""


class TokenLayout(nn.Module):
    """Base class of the tokenizing transforms. It adds special tokens, truncates and pads.

    A (title, text) pair gets the pair template. A pair whose title has no token is encoded like a single text.
    Truncation removes tokens one by one from the end of the longer part (``longest_first`` in transformers).

    Args:
        encode: Function from texts to int32 arrays of ids, not truncated and without special tokens.
        templates: Special tokens to add.
        padding_idx: Id of the padding token.
        max_length: Maximum number of tokens in a row, including special tokens and prompt.
        prompt: Prefix of each text, or of the title of a pair. Prompt and text are tokenized as one string.
        splits_words: Whether the tokenizer splits texts at spaces. If False, a token may reach from one word into
            another.

    Raises:
        ValueError: ``max_length`` leaves no room for a text.
    """

    def __init__(
        self,
        encode: Encode,
        templates: Templates,
        padding_idx: int,
        max_length: int,
        prompt: str = "",
        *,
        splits_words: bool = True,
    ) -> None:
        super().__init__()
        self._splits_words = splits_words
        self._encode = encode
        self.padding_idx = padding_idx
        self.max_length = max_length
        self.prompt = prompt
        self._prompt, self._prompt_alone = encode([prompt.rstrip(), prompt]) if prompt else (_NOTHING, _NOTHING)
        start, end = templates.single
        self._templates = {1: (start, end, _NOTHING), 2: tuple(templates.pair)}
        # sentence-transformers tokenizes the prompt alone, and leaves out one special token after it.
        self._prompt_length = len(start) + len(self._prompt_alone) + max(len(end) - 1, 0) if prompt else 0
        minimum = sum(map(len, self._templates[2])) + len(self._prompt) + 2
        if max_length < minimum:
            raise ValueError(
                f"max_length is {max_length}. It must be at least {minimum}, to hold the special tokens, the prompt, "
                "and one token each of title and text."
            )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the int32 ids of each text, not truncated, without prompt and special tokens.

        ``forward`` accepts these ids in place of texts.
        """
        return self._encode(texts)

    @functools.cached_property
    def takes_ids(self) -> bool:
        """True if ids can replace a text, because the tokenizer never merges the prompt's end with the text."""
        if self.prompt and not self._splits_words:
            return False
        probes = _PROBES if self.prompt else ()
        joined, separate = self.encode([self.prompt + text for text in probes]), self.encode(probes)
        return all(
            np.array_equal(both, np.concatenate([self._prompt, ids]))
            for both, ids in zip(joined, separate, strict=True)
        )

    def forward(self, texts: Sequence[Text | tuple[Text, Text]]) -> TokenBatch:
        """Tokenize N texts, padded to the longest one.

        Args:
            texts: Strings, integer ids as returned by ``encode``, or (title, text) pairs of these. One call may mix all
                kinds. Ids do not include the prompt.

        Returns:
            Batch with (N, L) ids and attention mask, where L is at most ``max_length``.

        Raises:
            ValueError: ``texts`` is empty, or it contains ids although the prompt requires strings (``takes_ids``).
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one text")
        return self._build_batch([self._build_row(*parts) for parts in self._encode_all(texts)])

    def _build_batch(self, rows: Sequence[tuple[list[np.ndarray], bool, bool]]) -> TokenBatch:
        """Return the batch of rows that ``_build_row`` has built, padded to the longest one."""
        lengths = np.array([sum(map(len, row)) for row, _, _ in rows])  # (N,)
        attention_mask = np.arange(lengths.max()) < lengths[:, None]  # (N, L)
        input_ids = np.full(attention_mask.shape, self.padding_idx, dtype=np.int64)
        input_ids[attention_mask] = np.concatenate([part for row, _, _ in rows for part in row], dtype=np.int64)
        return TokenBatch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            truncated=torch.tensor([truncated for _, truncated, _ in rows]),
            empty=torch.tensor([empty for _, _, empty in rows]),
            lengths=lengths,
            prompt_length=self._prompt_length,
        )

    def _encode_all(self, texts: Sequence[Text | tuple[Text, Text]]) -> list[tuple[bool, list[np.ndarray]]]:
        """Return for each text whether it has no tokens besides the prompt, and the ids of its parts with the prompt.

        A pair whose title has no tokens is encoded as its text alone.
        """
        items = [(text,) if isinstance(text, (str, np.ndarray)) else text for text in texts]
        parts = self._encode_parts(items)
        untitled = [n for n, (is_empty, ids) in enumerate(parts) if is_empty and len(ids) > 1]
        for n, alone in zip(untitled, self._encode_parts([items[n][1:] for n in untitled]), strict=True):
            parts[n] = alone
        return parts

    def _encode_parts(self, items: Sequence[tuple[Text, ...]]) -> list[tuple[bool, list[np.ndarray]]]:
        """Return for each item whether its first part has no tokens besides the prompt, and the ids of all parts."""
        strings = [
            part if number else self.prompt + part
            for parts in items
            for number, part in enumerate(parts)
            if isinstance(part, str)
        ]
        encoded = iter(self.encode(strings) if strings else ())
        rows = []
        for parts in items:
            ids = [next(encoded) if isinstance(part, str) else part for part in parts]
            if isinstance(parts[0], str):
                rows.append((self._is_only_prompt(parts[0], ids[0]), ids))
            else:
                rows.append((not len(ids[0]), [self._prepend_prompt(ids[0]), *ids[1:]]))
        return rows

    def _is_only_prompt(self, text: str, ids: np.ndarray) -> bool:
        if not self.prompt:
            return not len(ids)
        # If one unknown token covers both prompt and text, the ids equal the prompt's although the text has a token.
        return np.array_equal(ids, self._prompt_alone) and not len(self.encode([text])[0])

    def _prepend_prompt(self, ids: np.ndarray) -> np.ndarray:
        if not self.prompt:
            return ids
        if not self.takes_ids:
            raise ValueError(f'this tokenizer merges the prompt "{self.prompt}" with the text. Pass texts, not ids.')
        return np.concatenate([self._prompt, ids])

    def _build_row(self, is_empty: bool, ids: list[np.ndarray]) -> tuple[list[np.ndarray], bool, bool]:
        """Return the id arrays of one row with special tokens, whether it is truncated, and whether it is empty."""
        start, middle, end = self._templates[len(ids)]
        first, second = (*ids, _NOTHING)[:2]
        num_prompt = min(len(self._prompt), len(first))  # Prompt tokens are never truncated.
        room = self.max_length - len(start) - len(middle) - len(end) - num_prompt
        kept, kept_second = _truncate_longest_first(len(first) - num_prompt, len(second), room)
        row = [start, first[: num_prompt + kept], middle, second[:kept_second], end]
        return row, num_prompt + kept + kept_second < len(first) + len(second), is_empty

    def extra_repr(self) -> str:
        """Return the settings to show in ``repr``."""
        return f"max_length={self.max_length}"


def _truncate_longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths of two texts after truncating the longer one first (``tokenizers``, truncate_encodings)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
