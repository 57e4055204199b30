"""Tests of searches over batches of requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from test.helpers import write_collection
from text.errors import DataError
from text.retrieval import Hits
from text.serving import Search, SearchRequest, search_all
from text.serving.searches import find_in_batch


def find_numbered(questions: Sequence[str], k: int) -> list[Hits]:
    """Find the passages a0, a1, ... for the question a."""
    return [Hits([f"{each}{rank}" for rank in range(k)], [-float(rank) for rank in range(k)]) for each in questions]


@pytest.mark.parametrize(
    ("is_exact", "calls"),
    [
        (True, [(["a", "b", "c", "d"], 3)]),
        (False, [(["a", "c"], 2), (["b"], 3), (["d"], 1)]),  # An index may find other passages for a larger k.
    ],
)
def test_an_exact_search_is_called_once_and_an_index_once_per_k(
    is_exact: bool, calls: list[tuple[list[str], int]]
) -> None:
    asked: list[tuple[list[str], int]] = []

    def find(questions: Sequence[str], k: int) -> list[Hits]:
        asked.append((list(questions), k))
        return find_numbered(questions, k)

    no_passages: Any = None
    search = Search("some", find, no_passages, is_exact)
    requests = [SearchRequest("a", 2), SearchRequest("b", 3), SearchRequest("c", 2), SearchRequest("d", 1)]
    found = find_in_batch(search, requests)
    assert [each.passage_ids for each in found] == [["a0", "a1"], ["b0", "b1", "b2"], ["c0", "c1"], ["d0"]]
    assert [len(each.scores) for each in found] == [2, 3, 2, 1]
    assert asked == calls


def test_each_request_gets_the_results_of_all_searches(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", ["a0", "a1", "b0"], ["an oak", "elm, Elm", "elmwood"])
    searches = [Search(name, find_numbered, collection) for name in ("one", "other")]
    found = search_all(searches, [SearchRequest("a", 2, "ELM"), SearchRequest("b", 1, "elm")])
    assert [[result.name for result in results] for results in found] == [["one", "other"]] * 2
    [[first, _], [second, _]] = found
    passages = [(each.passage_id, each.score, each.title, each.text, each.answer_spans) for each in first.passages]
    assert passages == [("a0", 0, "title a0", "an oak", []), ("a1", -1, "title a1", "elm, Elm", [(0, 3), (5, 8)])]
    assert [(each.passage_id, each.answer_spans) for each in second.passages] == [("b0", [])]


def test_question_is_cut_is_true_for_questions_above_the_limit(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", ["a0", "bb0"], ["an oak", "elm"])
    searches = [Search("words", find_numbered, collection)]
    searches.append(searches[0]._replace(name="model", is_truncated=lambda question: len(question) > 1))
    found = search_all(searches, [SearchRequest("a", 1), SearchRequest("bb", 1)])
    assert [[result.question_is_cut for result in results] for results in found] == [[False, False], [False, True]]


def test_a_passage_missing_from_the_collection_raises_an_error_with_its_id(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", ["a0"], ["an oak"])
    with pytest.raises(DataError, match=r"corpus\.jsonl: .*\ba1\b"):
        search_all([Search("some", find_numbered, collection)], [SearchRequest("a", 2)])
