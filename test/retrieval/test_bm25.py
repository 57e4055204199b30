"""BM25, against its formula in plain loops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from test.helpers import WORDS
from text.records import Passage
from text.retrieval.bm25 import BM25

NOUNS = [word for word in WORDS if len(word) > 2 and word not in ("the", "and", "has", "leaves")]


def by_loops(texts: list[str], question: str, k1: float = 0.9, b: float = 0.4) -> list[float]:
    """Robertson's formula with Lucene's idf."""
    documents = [text.split() for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in question.split():
            containing = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            tf = counts[word]
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / average))
        scores.append(score)
    return scores


def test_equals_the_formula() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(NOUNS, size=size)) for size in random.integers(1, 12, size=40)]
    index = BM25(Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    questions = [" ".join(random.choice(NOUNS, size=3)) for _ in range(20)]
    for question, found in zip(questions, index.search(questions, 100), strict=True):
        expected = {f"p{row}": score for row, score in enumerate(by_loops(texts, question)) if score > 0}
        assert dict(zip(found.passage_ids, found.scores, strict=True)) == pytest.approx(expected, rel=1e-5)
        assert found.scores == sorted(found.scores, reverse=True)
        assert index.search([question], 3)[0].passage_ids == found.passage_ids[:3]


def test_more_passages_come_behind_with_their_scores() -> None:
    texts = ["oak elm", "oak", "elm elm fig", "fig"]
    index = BM25(Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    [of_all], [found] = index.search(["oak"], 4), index.search(["oak"], 1, also=[["p3", "p0", "p1", "other"]])
    assert found == (["p1", "p0", "p3"], [*of_all.scores, 0.0]) and len(of_all.scores) == 2


def test_ties_words_that_are_unknown_and_stems() -> None:
    index = BM25(
        [Passage(name, "Trees", text) for name, text in (("1", "oak"), ("3", "oak"), ("2", "oak"), ("4", "elm"))]
    )
    assert index.search(["oaks", "cypress", "the", "tree"], 2) == [
        index.search(["oak"], 2)[0],
        ([], []),
        ([], []),
        index.search(["trees"], 2)[0],
    ]
    assert index.search(["oak"], 2)[0].passage_ids == ["3", "2"]
    with pytest.raises(ValueError, match="k is 0; expected 1 or more"):
        index.search(["oak"], 0)
    with pytest.raises(ValueError, match="no passages with words; expected one or more"):
        BM25([])
