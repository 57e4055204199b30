"""The words of texts as numbers, for a BM25 index on disk. ``BM25`` in memory has the same words.

A word is lower-cased, dropped if it is an English stopword, and stemmed. The 64-bit hash of a stem identifies it, so an
index stores no texts.

Dimensions: V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from text.errors import explain_missing
from text.records import hash_text
from text.retrieval.bm25 import split_words

with explain_missing("bm25"):
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN

ANALYSIS = "english-1"
"""Name of these rules, which the plan of an index holds. Change it together with the rules."""
_MAX_KEPT = 1 << 20
"""Maximum number of words whose stems are cached. A full cache is emptied."""


class WordStems:
    """Function from a text to the hashes of its stems, in the order of the text and with repetitions."""

    def __init__(self) -> None:
        self._stem = Stemmer.Stemmer("english").stemWord
        self._stopwords = frozenset(STOPWORDS_EN)
        self._kept = dict[str, int | None]()

    def __call__(self, text: str) -> list[int]:
        """Return the hashes of the stems of a text."""
        hashes = (self._hash_word(word) for word in split_words(text.lower()))
        return [value for value in hashes if value is not None]

    def _hash_word(self, word: str) -> int | None:
        """Return the hash of the stem of a word, or None for a stopword."""
        if word in self._kept:
            return self._kept[word]
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        value = None if word in self._stopwords else hash_text(self._stem(word))
        self._kept[word] = value
        return value


class Vocabulary:
    """Numbers of words in the order in which they first occurred, while an index is built.

    Args:
        hashes: Hashes of the words that are already known, in their order.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._numbers = {value: number for number, value in enumerate(hashes)}

    def __len__(self) -> int:
        return len(self._numbers)

    def number_words(self, hashes: Iterable[int]) -> list[int]:
        """Return the numbers of words. A new word gets the next number."""
        numbers = self._numbers
        return [numbers.setdefault(value, len(numbers)) for value in hashes]

    def list_hashes(self, start: int = 0) -> np.ndarray:
        """Return the int64 hashes of the words from a number on."""
        return np.fromiter(self._numbers, dtype=np.int64, count=len(self._numbers))[start:]
