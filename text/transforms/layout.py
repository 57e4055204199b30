"""From ids of texts to one TokenBatch: special tokens around them, limits, padding, masks.

How a text gets its ids is left to the subclasses: ``Tokenize``, on ``tokenizers``, and ``TorchtextTokenize``.

Dimensions: N texts; L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from text.records import TokenBatch

Encode = Callable[[Sequence[str]], list[np.ndarray]]
Text = str | np.ndarray
"""A text, or its ids."""

_NOTHING = np.empty(0, dtype=np.int64)


class Templates(NamedTuple):
    """The ids of special tokens that stand before, between and after the parts of a row; int64."""

    single: Sequence[np.ndarray]
    """Around a text alone: two."""
    pair: Sequence[np.ndarray]
    """Around a title and a text: three."""


class TokenLayout(nn.Module):
    """Lays ids out in rows; a subclass has ``encode``, which makes them of texts.

    A pair has the pair's template around it; one whose title has no token is laid out as the
    text alone. What is too long loses tokens from the end of its longer part, one by one.

    Args:
        templates: Special tokens.
        padding_idx: The id that fills the rows up.
        max_length: Most tokens a row may have, special tokens and prompt included.
        prompt: Ids to put before every text, or title.

    Raises:
        ValueError: ``max_length`` leaves no room for a text.
    """

    def __init__(self, templates: Templates, padding_idx: int, max_length: int, prompt: np.ndarray = _NOTHING) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.max_length = max_length
        start, end = templates.single
        pair_start, *pair_rest = templates.pair
        self._templates = {
            1: (np.concatenate([start, prompt]), end, _NOTHING),
            2: (np.concatenate([pair_start, prompt]), *pair_rest),
        }
        least = sum(map(len, self._templates[2])) + 2
        if max_length < least:
            raise ValueError(f"max_length is {max_length}; expected {least} or more, to hold a title and a text")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text: int32, whole, without special tokens. ``forward`` takes them in its stead."""
        raise NotImplementedError

    def forward(self, texts: Sequence[Text | tuple[Text, Text]]) -> TokenBatch:
        """Tokenizes N texts together, padded to the longest of them.

        Args:
            texts: Strings, or ids as ``encode`` gives them (any integer type), or (title, text) of
                these; all kinds may stand in one call.

        Returns:
            (N, L) ids and mask with L at most ``max_length``.

        Raises:
            ValueError: There is no text.
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one")
        rows = [self._row(*parts) for parts in self._ids(texts)]
        lengths = np.array([sum(map(len, row)) for row, _, _ in rows])  # (N,)
        attention_mask = np.arange(lengths.max()) < lengths[:, None]  # (N, L)
        input_ids = np.full(attention_mask.shape, self.padding_idx, dtype=np.int64)
        input_ids[attention_mask] = np.concatenate([part for row, _, _ in rows for part in row], dtype=np.int64)
        return TokenBatch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            truncated=torch.tensor([truncated for _, truncated, _ in rows]),
            empty=torch.tensor([empty for _, _, empty in rows]),
        )

    def _ids(self, texts: Sequence[Text | tuple[Text, Text]]) -> list[list[np.ndarray]]:
        """The ids of each text, or title and text."""
        items = [(text,) if isinstance(text, (str, np.ndarray)) else text for text in texts]
        encoded = iter(self.encode([part for parts in items for part in parts if isinstance(part, str)]))
        return [[next(encoded) if isinstance(part, str) else part for part in parts] for parts in items]

    def _row(self, *ids: np.ndarray) -> tuple[list[np.ndarray], bool, bool]:
        """The parts of one row, special tokens among them; whether it is truncated; whether it is empty."""
        ids = ids if len(ids[0]) else ids[1:] or ids  # a title without tokens leaves the text alone
        start, middle, end = self._templates[len(ids)]
        first, second = (*ids, _NOTHING)[:2]
        room = self.max_length - len(start) - len(middle) - len(end)
        kept, kept_second = _longest_first(len(first), len(second), room)
        row = [start, first[:kept], middle, second[:kept_second], end]
        return row, kept + kept_second < len(first) + len(second), kept == 0

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}"


def ids_of_prompt(encode: Encode, prompt: str) -> np.ndarray:
    """Its ids, int64. Text is tokenized by itself, so that the two must not have a token in common.

    Raises:
        ValueError: The prompt's last token would grow together with the text.
    """
    if not prompt:
        return _NOTHING
    [ids] = encode([prompt.rstrip()])
    for text in ("a", "A", "1", "."):
        whole, apart = encode([prompt + text, text])
        if whole.tolist() != [*ids, *apart]:
            raise ValueError(
                f'the tokenizer joins "{prompt}" with the text after it; expected a prompt that ends apart'
            )
    return ids.astype(np.int64)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay, taking one by one from the longer (``tokenizers``, truncate_encodings)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
