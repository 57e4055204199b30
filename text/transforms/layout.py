"""From ids of texts to one TokenBatch: special tokens around them, limits, padding, masks.

How a text gets its ids is left to the subclasses: ``Tokenize``, on ``tokenizers``, and ``TorchtextTokenize``.

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
"""A text, or its ids."""

_NOTHING = np.empty(0, dtype=np.int64)


class Templates(NamedTuple):
    """The ids of special tokens that stand before, between and after the parts of a row; int64."""

    single: Sequence[np.ndarray]
    """Around a text alone: two."""
    pair: Sequence[np.ndarray]
    """Around a title and a text: three."""


class TokenLayout(nn.Module):
    """Lays ids out in rows; a subclass says how a text gets its ids.

    A pair has the pair's template around it; one whose title has no token is laid out as the
    text alone. What is too long loses tokens from the end of its longer part, one by one.

    Args:
        encode: Texts to the ids of each: int32, whole, without special tokens.
        templates: Special tokens.
        padding_idx: The id that fills the rows up.
        max_length: Most tokens a row may have, special tokens and prompt included.
        prompt: Put before every text, or title. The two are tokenized as one string.

    Raises:
        ValueError: ``max_length`` leaves no room for a text.
    """

    def __init__(
        self, encode: Encode, templates: Templates, padding_idx: int, max_length: int, prompt: str = ""
    ) -> None:
        super().__init__()
        self._encode = encode
        self.padding_idx = padding_idx
        self.max_length = max_length
        self.prompt = prompt
        self._prompt, self._prompt_alone = encode([prompt.rstrip(), prompt]) if prompt else (_NOTHING, _NOTHING)
        start, end = templates.single
        self._templates = {1: (start, end, _NOTHING), 2: tuple(templates.pair)}
        least = sum(map(len, self._templates[2])) + len(self._prompt) + 2
        if max_length < least:
            needs = "special tokens, the prompt, and a token each of a title and a text"
            raise ValueError(f"max_length is {max_length}. Give {least} or more, to hold {needs}.")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text: int32, whole, without prompt and special tokens. ``forward`` takes them, too."""
        return self._encode(texts)

    @functools.cached_property
    def takes_ids(self) -> bool:
        """Whether the ids of a text can stand for it: the tokenizer joins no token of the prompt with the text."""
        probes = ("a", "A", "1", ".", " a", "'s", "é", "北") if self.prompt else ()
        wholes, apart = self.encode([self.prompt + text for text in probes]), self.encode(probes)
        return all(
            np.array_equal(whole, np.concatenate([self._prompt, ids])) for whole, ids in zip(wholes, apart, strict=True)
        )

    def forward(self, texts: Sequence[Text | tuple[Text, Text]]) -> TokenBatch:
        """Tokenizes N texts together, padded to the longest of them.

        Args:
            texts: Strings, or ids as ``encode`` gives them (any integer type), or (title, text) of
                these; all kinds may stand in one call. Ids have no prompt.

        Returns:
            (N, L) ids and mask with L at most ``max_length``.

        Raises:
            ValueError: There is no text; or the ids of one cannot stand behind the prompt (``takes_ids``).
        """
        if not texts:
            raise ValueError("texts is empty; expected at least one")
        rows = [self._row(*parts) for parts in self._parts(texts)]
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

    def _parts(self, texts: Sequence[Text | tuple[Text, Text]]) -> list[tuple[bool, list[np.ndarray]]]:
        """Whether a text has no token of its own, and its ids or those of title and text, the prompt included."""
        items = [(text,) if isinstance(text, (str, np.ndarray)) else text for text in texts]
        parts = self._ids(items)
        untitled = [n for n, (is_empty, ids) in enumerate(parts) if is_empty and len(ids) > 1]
        for n, alone in zip(untitled, self._ids([items[n][1:] for n in untitled]), strict=True):
            parts[n] = alone
        return parts

    def _ids(self, items: Sequence[tuple[Text, ...]]) -> list[tuple[bool, list[np.ndarray]]]:
        """The same; it is empty where the first of two has no token of its own."""
        strings = [
            part if place else self.prompt + part
            for parts in items
            for place, part in enumerate(parts)
            if isinstance(part, str)
        ]
        encoded = iter(self.encode(strings) if strings else ())
        rows = []
        for parts in items:
            ids = [next(encoded) if isinstance(part, str) else part for part in parts]
            if isinstance(parts[0], str):
                rows.append((self._is_prompt_alone(parts[0], ids[0]), ids))
            else:
                rows.append((not len(ids[0]), [self._behind_prompt(ids[0]), *ids[1:]]))
        return rows

    def _is_prompt_alone(self, text: str, ids: np.ndarray) -> bool:
        if not self.prompt:
            return not len(ids)
        # Two unknown words that are one token look like the prompt alone, too.
        return np.array_equal(ids, self._prompt_alone) and not len(self.encode([text])[0])

    def _behind_prompt(self, ids: np.ndarray) -> np.ndarray:
        if not self.prompt:
            return ids
        if not self.takes_ids:
            raise ValueError(f'this tokenizer joins the prompt "{self.prompt}" with the text. Give texts, not ids.')
        return np.concatenate([self._prompt, ids])

    def _row(self, is_empty: bool, ids: list[np.ndarray]) -> tuple[list[np.ndarray], bool, bool]:
        """The parts of one row, special tokens among them; whether it is truncated; whether it is empty."""
        start, middle, end = self._templates[len(ids)]
        first, second = (*ids, _NOTHING)[:2]
        num_prompt = min(len(self._prompt), len(first))  # these are never cut off
        room = self.max_length - len(start) - len(middle) - len(end) - num_prompt
        kept, kept_second = _longest_first(len(first) - num_prompt, len(second), room)
        row = [start, first[: num_prompt + kept], middle, second[:kept_second], end]
        return row, num_prompt + kept + kept_second < len(first) + len(second), is_empty

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}"


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay, taking one by one from the longer (``tokenizers``, truncate_encodings)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
