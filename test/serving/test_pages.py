"""Tests of marked texts, and of the search page without a server."""

from __future__ import annotations

import pytest

from text.serving import FoundPassage, SearchResult
from text.serving.pages import SearchPage, render_search_page, split_marked


@pytest.mark.parametrize(
    ("spans", "pieces"),
    [
        ([], [("an oak, an elm", False)]),
        ([(3, 6)], [("an ", False), ("oak", True), (", an elm", False)]),
        ([(0, 2), (2, 6), (11, 14)], [("an", True), (" oak", True), (", an ", False), ("elm", True)]),
        ([(0, 14)], [("an oak, an elm", True)]),
    ],
)
def test_split_marked_by_hand(spans: list[tuple[int, int]], pieces: list[tuple[str, bool]]) -> None:
    assert split_marked("an oak, an elm", spans) == pieces


def test_split_marked_of_an_empty_text() -> None:
    assert split_marked("", []) == []


def test_pieces_are_escaped_and_joined_without_space() -> None:
    passage = FoundPassage(passage_id="p1", score=0.12345, title="", text="<b>oak</b>s & elms", answer_spans=[(3, 6)])
    page = SearchPage(question="a > b", k="10", max_k=100, max_characters=1000, collections="2 passages")
    html = render_search_page(page, results=[SearchResult(name="some", seconds=1.2, passages=[passage])], seconds=2.5)
    assert ">&lt;b&gt;<mark>oak</mark>&lt;/b&gt;s &amp; elms</p>" in html
    assert "0.1235" in html or "0.1234" in html
    assert "Answered in 2,500 ms" in html and "1,200 ms" in html


def test_the_page_has_a_note_about_a_truncated_question() -> None:
    page = SearchPage(k="10", max_k=100, max_characters=1000, collections="2 passages")
    shown = [
        render_search_page(page, results=[SearchResult(name="some", seconds=1.2, passages=[], question_is_cut=is_cut)])
        for is_cut in (False, True)
    ]
    assert ["longer than the model" in html for html in shown] == [False, True]


def test_the_question_field_has_the_focus_unless_there_are_passages() -> None:
    page = SearchPage(k="10", max_k=100, max_characters=1000, collections="2 passages")
    nothing = SearchResult(name="some", seconds=1.2, passages=[])
    passage = FoundPassage(passage_id="p1", score=1.0, title="Oaks", text="an oak", answer_spans=[])
    found = SearchResult(name="other", seconds=1.2, passages=[passage])
    shown = [{}, {"error": "failed"}, {"results": [nothing]}, {"results": [nothing, found]}]
    assert [" autofocus" in render_search_page(page, **each) for each in shown] == [True, True, True, False]
