"""How questions are put together, with a search that tells what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from examples.dpr.searching import Asked, Search, find_together
from text.retrieval import Found


@pytest.mark.parametrize(
    ("exact", "calls"),
    [
        (True, [(["a", "b", "c", "d"], 3)]),
        (False, [(["a", "c"], 2), (["b"], 3), (["d"], 1)]),  # such as an index, which finds others for a larger k
    ],
)
def test_one_call_where_few_are_the_first_of_many(exact: bool, calls: list[tuple[list[str], int]]) -> None:
    asked: list[tuple[list[str], int]] = []

    def find(questions: Sequence[str], k: int) -> list[Found]:
        asked.append((list(questions), k))
        return [
            Found([f"{question}{rank}" for rank in range(k)], [-float(rank) for rank in range(k)])
            for question in questions
        ]

    no_passages: Any = None
    search = Search("some", find, no_passages, exact)
    found = find_together(search, [Asked("a", 2), Asked("b", 3), Asked("c", 2), Asked("d", 1)])
    assert [each.passage_ids for each in found] == [["a0", "a1"], ["b0", "b1", "b2"], ["c0", "c1"], ["d0"]]
    assert [len(each.scores) for each in found] == [2, 3, 2, 1]
    assert asked == calls
