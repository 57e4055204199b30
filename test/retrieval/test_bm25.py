"""BM25 search, compared with the formula in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from test.helpers import WORDS, shared_file
from text.commands.cli import get_exit_code
from text.datasets import PassageCollection, read_questions
from text.errors import DataError
from text.evaluation import evaluate_run, mean_metrics, read_qrels
from text.records import Passage
from text.retrieval import search_questions
from text.retrieval.bm25 import BM25

NOUNS = [word for word in WORDS if len(word) > 2 and word not in ("the", "and", "has", "leaves")]


def score_by_loops(texts: list[str], question: str, k1: float = 0.9, b: float = 0.4) -> list[float]:
    """Return the BM25 score of each text, with Lucene's idf."""
    documents = [text.split() for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in question.split():
            containing = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            tf = counts[word]
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / average)) if tf else 0.0
        scores.append(score)
    return scores


def test_scores_equal_the_formula() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(NOUNS, size=size)) for size in random.integers(1, 12, size=40)]
    index = BM25(Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    questions = [" ".join(random.choice(NOUNS, size=3)) for _ in range(20)]
    for question, found in zip(questions, index.search(questions, 100), strict=True):
        expected = {f"p{row}": score for row, score in enumerate(score_by_loops(texts, question)) if score > 0}
        assert dict(zip(found.passage_ids, found.scores, strict=True)) == pytest.approx(expected, rel=1e-5)
        assert found.scores == sorted(found.scores, reverse=True)
        assert index.search([question], 3)[0].passage_ids == found.passage_ids[:3]


def test_k1_and_b_change_the_scores_as_in_the_formula() -> None:
    texts = ["oak oak elm", "oak fig fig bay", "elm"]
    for k1, b in ((0.0, 0.0), (1.5, 0.75), (2.0, 1.0)):
        [found] = BM25((Passage(f"p{n}", "", text) for n, text in enumerate(texts)), k1=k1, b=b).search(["oak elm"])
        expected = {f"p{row}": score for row, score in enumerate(score_by_loops(texts, "oak elm", k1, b))}
        assert dict(zip(found.passage_ids, found.scores, strict=True)) == pytest.approx(expected, rel=1e-5)
    for k1, b in ((-0.1, 0.4), (math.inf, 0.4), (0.9, 1.1), (0.9, math.nan)):
        with pytest.raises(ValueError, match=r"^k1 is .* b is "):
            BM25([Passage("p", "", "oak")], k1=k1, b=b)


def test_scripts_without_spaces_are_split_into_bigrams() -> None:
    texts = ["长城是中国古代的工程。", "北京是中国的首都。", "富士山在日本。", "他生于1985年 oak"]
    index = BM25(Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    found = index.search(["中国的首都", "富士山在哪", "1985年", "古中", "oaks"])
    assert [each.passage_ids for each in found] == [["p1", "p0"], ["p2"], ["p3"], [], ["p3"]]
    # In the formula, the character bigrams are the words: 中国, 国的, 的首, 首都.
    pairs = ["长城 城是 是中 中国 国古 古代 代的 的工 工程", "北京 京是 是中 中国 国的 的首 首都"]
    pairs += ["富士 士山 山在 在日 日本", "他生 生于 1985 年 oak"]
    assert found[0].scores == pytest.approx(
        sorted(score_by_loops(pairs, "中国 国的 的首 首都"), reverse=True)[:2], rel=1e-5
    )


def test_unicode_forms_of_one_word_are_equal() -> None:
    index = BM25([Passage("1", "", "a cafe\u0301"), Passage("2", "", "a caf\u00e9"), Passage("3", "", "a caff")])
    for question in ("caf\u00e9", "cafe\u0301"):
        assert index.search([question])[0].passage_ids == ["2", "1"]


def test_real_chinese_questions_find_their_passages() -> None:
    folder = shared_file("beir/xquad/zh")
    questions = read_questions(folder / "queries.jsonl")
    run = search_questions(BM25(PassageCollection(folder / "corpus.jsonl")).search, questions, 10)
    assert len(run) == 1190 and all(run.values())
    figures = mean_metrics(evaluate_run(read_qrels(folder / "qrels/test.tsv"), run, cut_offs=[10]))
    assert figures["mrr@10"] > 0.95  # Without bigrams it was 0.10.


def test_extra_ids_are_appended_with_their_scores() -> None:
    texts = ["oak elm", "oak", "elm elm fig", "fig"]
    index = BM25(Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    [everything], [found] = index.search(["oak"], 4), index.search(["oak"], 1, extra_ids=[["p3", "p0", "p1", "other"]])
    assert found == (["p1", "p0", "p3"], [*everything.scores, 0.0]) and len(everything.scores) == 2


def test_ties_unknown_words_and_stems() -> None:
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
    with pytest.raises(TypeError, match=r"^questions is a str"):
        index.search("oak")
    with pytest.raises(DataError, match="no passages with words"):
        BM25([])


def test_error_of_a_collection_without_words_names_the_file(tmp_path: Path) -> None:
    for content in ("id\ttext\ttitle\n", "id\ttext\ttitle\n1\t...\t-\n"):
        path = tmp_path / "c.tsv"
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            BM25(PassageCollection(path))
        assert str(caught.value).startswith(f"{path}: ") and get_exit_code(caught.value) == 3
