"""BM25 by bm25s: what a dense model is compared with.

Words are stemmed and stopwords dropped, both English; titles count as text. Scripts without spaces, such as Chinese,
give pairs of neighbouring letters instead of words. Texts are compared in NFC, a Unicode form.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from text.datasets import PassageCollection
from text.errors import DataError, explain_missing
from text.progress import track
from text.records import Passage
from text.retrieval.arguments import check_k, list_questions
from text.retrieval.exact import Found
from text.words import split_bigrams

with explain_missing("bm25"):
    import bm25s
    import Stemmer

K1, B = 0.9, 0.4
"""As in Anserini, and in the figures of most papers."""
_WORDS = re.compile(r"\b\w\w+\b")
"""The words of bm25s: two characters or more."""


class BM25:
    """An index of words, in memory.

    Args:
        passages: To be searched.
        k1: Saturation of the frequency of a word, 0 or more. 0 counts a word once for a passage.
        b: Weight of a passage's length, 0 to 1.

    Raises:
        DataError: There is no passage, or none has a word.
        ValueError: k1 or b is out of range.
    """

    def __init__(self, passages: Iterable[Passage], *, k1: float = K1, b: float = B) -> None:
        if not (0 <= k1 < math.inf and 0 <= b <= 1):
            raise ValueError(f"k1 is {k1} and b is {b}. Use 0 or more for k1, and 0 to 1 for b.")
        self._passage_ids: list[str] = []
        self._words = bm25s.tokenization.Tokenizer(
            splitter=_split_words, stopwords="en", stemmer=Stemmer.Stemmer("english")
        )
        tokens = self._words.tokenize(self._texts(passages), return_as="ids", show_progress=False)
        if not any(self._words.get_vocab_dict()):  # A passage without words has one word, which is empty.
            where = passages.path if isinstance(passages, PassageCollection) else "passages"
            raise DataError(f"{where}: no passages with words. Give one or more.")
        self._rows = {name: row for row, name in enumerate(self._passage_ids)}
        self._index = bm25s.BM25(k1=k1, b=b)
        self._index.index((tokens, self._words.get_vocab_dict()), show_progress=False)

    def search(self, questions: Iterable[str], k: int = 10, also: Sequence[Sequence[str]] | None = None) -> list[Found]:
        """The k passages with the largest scores, for each question; those that share no word with it are not found.

        Args:
            questions: What is searched for.
            k: Passages for a question.
            also: Ids of passages of each question that come behind them, with their scores, if they are not among them.

        Raises:
            TypeError: ``questions`` is no list, a question is no string, or k is no whole number.
            ValueError: k is below 1.
        """
        k, listed = check_k(k), list_questions(questions)
        tokens: Any = self._words.tokenize(
            listed, update_vocab=False, return_as="ids", show_progress=False, allow_empty=False
        )
        others = also if also is not None else [()] * len(tokens)
        pairs = zip(track(tokens, "BM25", "questions"), others, strict=True)
        return [self._best(list(words), k, ids) for words, ids in pairs]

    def _texts(self, passages: Iterable[Passage]) -> list[str]:
        texts = []
        for passage in passages:
            self._passage_ids.append(passage.passage_id)
            texts.append(f"{passage.title} {passage.text}")
        return texts

    def _best(self, words: list[int], k: int, also: Sequence[str]) -> Found:
        scores = self._index.get_scores_from_ids(words) if words else np.zeros(len(self._passage_ids))
        least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        rows = np.flatnonzero((scores >= least) & (scores > 0))
        pairs = sorted(((float(scores[row]), self._passage_ids[row]) for row in rows), reverse=True)[:k]
        missing = {name for name in also if name in self._rows} - {passage_id for _, passage_id in pairs}
        pairs += sorted(((float(scores[self._rows[name]]), name) for name in missing), reverse=True)
        return Found([passage_id for _, passage_id in pairs], [score for score, _ in pairs])


def _split_words(text: str) -> list[str]:
    spaced, bigrams = split_bigrams(unicodedata.normalize("NFC", text))
    return _WORDS.findall(spaced) + bigrams
