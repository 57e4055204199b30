"""BM25 search, the lexical baseline for a dense model. The library bm25s computes the scores.

English stopwords are removed, and words are stemmed with the English stemmer. The title counts as part of the text.
Text in scripts without spaces, such as Chinese, is split into character bigrams. Texts are normalized to NFC.
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
from text.retrieval.exact import Hits
from text.words import split_bigrams

with explain_missing("bm25"):
    import bm25s
    import Stemmer

K1, B = 0.9, 0.4
"""The defaults of Anserini, which most papers use."""
_WORDS = re.compile(r"\b\w\w+\b")
"""The token pattern of bm25s: words of two characters or more."""


class BM25:
    """A BM25 index in memory (Robertson and Zaragoza 2009, with Lucene's idf).

    Args:
        passages: The passages to search.
        k1: Term frequency saturation, 0 or more. With 0, repeated words do not raise the score.
        b: Strength of the length normalization, from 0 to 1.

    Raises:
        DataError: There are no passages, or no passage has a word.
        ValueError: k1 or b is out of range.
    """

    def __init__(self, passages: Iterable[Passage], *, k1: float = K1, b: float = B) -> None:
        check_parameters(k1, b)
        self._passage_ids: list[str] = []
        self._words = bm25s.tokenization.Tokenizer(
            splitter=split_words, stopwords="en", stemmer=Stemmer.Stemmer("english")
        )
        tokens = self._words.tokenize(self._collect_texts(passages), return_as="ids", show_progress=False)
        if not any(self._words.get_vocab_dict()):  # bm25s gives a passage without words one empty word.
            where = passages.path if isinstance(passages, PassageCollection) else "passages"
            raise DataError(f"{where}: no passages with words. BM25 needs at least one passage with text.")
        self._rows = {name: row for row, name in enumerate(self._passage_ids)}
        self._index = bm25s.BM25(k1=k1, b=b)
        self._index.index((tokens, self._words.get_vocab_dict()), show_progress=False)

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k passages with the highest scores for each question.

        Passages that share no word with the question are not returned. Equal scores are ordered by passage id,
        highest first.

        Args:
            questions: Texts of the questions.
            k: Maximum number of passages per question.
            extra_ids: Passage ids for each question. A passage that is not among the k best is appended with its
                score.

        Raises:
            TypeError: ``questions`` is not a list, a question is not a string, or k is not an integer.
            ValueError: k is below 1.
        """
        k, listed = check_k(k), list_questions(questions)
        tokens: Any = self._words.tokenize(
            listed, update_vocab=False, return_as="ids", show_progress=False, allow_empty=False
        )
        extra_ids = extra_ids if extra_ids is not None else [()] * len(tokens)
        pairs = zip(track(tokens, "BM25", "questions"), extra_ids, strict=True)
        return [self._search_one(list(words), k, ids) for words, ids in pairs]

    def score_pairs(self, questions: Sequence[str], passage_ids: Sequence[str]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs of a question and a passage. Pairs without a common word score 0.

        Raises:
            KeyError: A passage is not in the collection.
        """
        rows_of = dict[str, list[int]]()
        for row, question in enumerate(questions):
            rows_of.setdefault(question, []).append(row)
        tokens: Any = self._words.tokenize(
            list(rows_of), update_vocab=False, return_as="ids", show_progress=False, allow_empty=False
        )
        places = np.array([self._rows[name] for name in passage_ids], dtype=np.int64)
        scores = np.zeros(len(places), dtype=np.float32)
        for rows, words in zip(rows_of.values(), tokens, strict=True):
            if len(words):
                scores[rows] = self._index.get_scores_from_ids(list(words))[places[rows]]
        return scores

    def _collect_texts(self, passages: Iterable[Passage]) -> list[str]:
        texts = []
        for passage in passages:
            self._passage_ids.append(passage.passage_id)
            texts.append(f"{passage.title} {passage.text}")
        return texts

    def _search_one(self, words: list[int], k: int, extra_ids: Sequence[str]) -> Hits:
        scores = self._index.get_scores_from_ids(words) if words else np.zeros(len(self._passage_ids))
        least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        rows = np.flatnonzero((scores >= least) & (scores > 0))
        pairs = sorted(((float(scores[row]), self._passage_ids[row]) for row in rows), reverse=True)[:k]
        missing = {name for name in extra_ids if name in self._rows} - {passage_id for _, passage_id in pairs}
        pairs += sorted(((float(scores[self._rows[name]]), name) for name in missing), reverse=True)
        return Hits([passage_id for _, passage_id in pairs], [score for score, _ in pairs])


def check_parameters(k1: float, b: float) -> None:
    """Check the parameters of BM25.

    Raises:
        ValueError: k1 or b is out of range.
    """
    if not (0 <= k1 < math.inf and 0 <= b <= 1):
        raise ValueError(f"k1 is {k1} and b is {b}. Use 0 or more for k1, and 0 to 1 for b.")


def split_words(text: str) -> list[str]:
    """Return the words of a text, and the character bigrams of scripts without spaces. Case is kept."""
    spaced, bigrams = split_bigrams(unicodedata.normalize("NFC", text))
    return _WORDS.findall(spaced) + bigrams
