"""Each form, converted by hand: the row of a record, what is left out, and the field of an error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from text.datasets.formats.dpr_record import SkipRow
from text.datasets.formats.values import FieldError, split_reason
from text.datasets.forms.columns import ColumnReader, Columns, find_columns, merge_pairs
from text.datasets.forms.rows import convert_dpr, convert_dpr_output, convert_flagembedding, convert_tevatron

OAK = {"passage_id": "p1", "title": "Oaks", "text": "A beetle ate the oak."}
ELM = {"passage_id": "p2", "title": "Elms", "text": "Elms are trees."}
ROW = {"question_id": "7", "question": "who ate it", "positive_ctxs": [OAK], "hard_negative_ctxs": [ELM]}


def rename(passage: dict[str, Any], key: str) -> dict[str, Any]:
    return {key if name == "passage_id" else name: value for name, value in passage.items()}


def convert_columns(record: dict[str, Any], counts: Counter[str] | None = None, **options: Any) -> dict[str, Any]:
    [columns] = find_columns(record)
    return ColumnReader(columns, **options).convert(record, Counter() if counts is None else counts)


@pytest.mark.parametrize(
    ("convert", "record"),
    [
        (convert_dpr, {"_id": 7, **ROW, "hard_negative_ctxs": [rename(ELM, "psg_id")], "question_id": None}),
        (
            convert_tevatron,
            {
                "query_id": "7",
                "query": "who ate it",
                "positive_passages": [rename(OAK, "docid")],
                "negative_passages": {"docid": ["p2"], "title": ["Elms"], "text": ["Elms are trees."]},
            },
        ),
        (
            convert_flagembedding,
            {
                "query": "who ate it",
                "id": "7",
                "pos": ["Oaks A beetle ate the oak."],
                "pos_id": ["p1"],
                "pos_titles": ["Oaks"],
                "neg": ["Elms Elms are trees."],
                "neg_id": ["p2"],
                "neg_titles": ["Elms"],
            },
        ),
        (
            convert_dpr_output,
            {
                "question": "who ate it",
                "qid": "7",
                "ctxs": [{**rename(ELM, "id"), "has_answer": False}, {**rename(OAK, "id"), "has_answer": True}],
            },
        ),
    ],
)
def test_one_row_in_each_form(convert, record) -> None:
    assert convert(record, Counter()) == ROW


def test_tevatron_ids_give_a_compact_row() -> None:
    record = {"query_id": 7, "query_text": "q", "positive_document_ids": ["a", 2], "negative_document_ids": ["c"]}
    expected = {"question_id": "7", "question": "q", "positive_ids": ["a", "2"], "hard_negative_ids": ["c"]}
    assert convert_tevatron(record, Counter()) == expected


def test_teacher_scores_survive() -> None:
    record = {"query": "q", "pos": ["a"], "neg": ["b", " "], "pos_scores": [0.9], "neg_scores": [1, 2]}
    counts = Counter()
    row = convert_flagembedding(record, counts)
    assert row["positive_ctxs"] == [{"text": "a", "score": 0.9}] and row["hard_negative_ctxs"] == [
        {"text": "b", "score": 1}
    ]
    assert counts == {"neg without text, left out": 1}
    output = {"question": "q", "ctxs": [{"id": 3, "title": "", "text": "a", "score": "81.5", "has_answer": True}]}
    assert convert_dpr_output(output, Counter())["positive_ctxs"] == [
        {"passage_id": "3", "title": "", "text": "a", "score": 81.5}
    ]


def test_fields_without_a_meaning_are_kept_and_counted() -> None:
    counts = Counter()
    row = convert_flagembedding({"query": "q", "pos": ["a"], "neg": [], "prompt": "Find: ", "answers": "b"}, counts)
    assert row["prompt"] == "Find: " and row["answers"] == ["b"]
    assert counts == {"rows with prompt, kept but not used by training": 1}


def test_columns_of_sentence_transformers() -> None:
    record = {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}
    assert convert_columns(record) == {
        "question": "q",
        "positive_ctxs": [{"text": "a"}],
        "hard_negative_ctxs": [{"text": "b"}, {"text": "c"}],
    }
    assert convert_columns({"query": "q", "positive": ["a", "b"], "negative": None})["positive_ctxs"] == [
        {"text": "a"},
        {"text": "b"},
    ]
    columns = Columns("q", "p", ("n",), question_id="number", answers="a", positive_id="doc", positive_title="head")
    record = {"q": "q", "p": "a", "n": ["b"], "number": 5, "a": "x", "doc": 3, "head": "A"}
    assert ColumnReader(columns).convert(record, Counter()) == {
        "question_id": "5",
        "question": "q",
        "positive_ctxs": [{"passage_id": "3", "title": "A", "text": "a"}],
        "hard_negative_ctxs": [{"text": "b"}],
        "answers": ["x"],
    }


def test_neighbouring_pairs_become_one_row() -> None:
    pairs = [("q", "a", 1), ("q", "b", 0), ("r", "c", 0), ("q", "d", True)]
    counts = Counter()
    rows = [convert_columns({"sentence1": q, "sentence2": p, "label": label}) for q, p, label in pairs]
    first, second, third = merge_pairs(rows, counts)
    assert [each["text"] for each in first["positive_ctxs"]] == ["a"]
    assert [each["text"] for each in first["hard_negative_ctxs"]] == ["b"]
    assert second["positive_ctxs"] == [] and [each["text"] for each in third["positive_ctxs"]] == ["d"]
    assert counts == {"pairs that joined the row of their question": 1}


def test_a_score_needs_a_threshold() -> None:
    record = {"sentence1": "q", "sentence2": "a", "score": "0.7"}
    with pytest.raises(FieldError, match="min_relevance") as error:
        convert_columns(record)
    assert split_reason(str(error.value)).field == "score"
    assert convert_columns(record, min_relevance=0.7)["positive_ctxs"] == [{"text": "a", "score": 0.7}]
    assert convert_columns(record, min_relevance=0.8)["hard_negative_ctxs"] == [{"text": "a", "score": 0.7}]


@pytest.mark.parametrize(
    ("convert", "record", "field"),
    [
        (convert_dpr, {"question": "q", "positive_ctxs": [{"text": 1}]}, "positive_ctxs[0].text"),
        (convert_dpr, {"question": "q", "positive_ids": ["a", {}]}, "positive_ids[1]"),
        (convert_dpr, {"question": [], "positive_ctxs": []}, "question"),
        (convert_dpr, {"question": "q", "positive_ids": ["a"], "positive_ctxs": [OAK]}, "positive_ctxs"),
        (convert_dpr_output, {"question": "q", "ctxs": 1}, "ctxs"),
        (convert_tevatron, {"query": "q", "positive_passages": ["a"]}, "positive_passages[0]"),
        (
            convert_tevatron,
            {"query": "q", "positive_passages": [{"docid": "1", "title": "t"}]},
            "positive_passages[0].text",
        ),
        (convert_tevatron, {"query": "q", "positive_passages": "a"}, "positive_passages"),
        (convert_tevatron, {"query": "q", "positive_passages": [], "positive_ctxs": [OAK]}, "positive_ctxs"),
        (convert_tevatron, {"query": "q", "positive_passages": [], "answers": {"start": 1}}, "answers"),
        (convert_flagembedding, {"query": "q", "pos": "a"}, "pos"),
        (convert_flagembedding, {"query": "q", "pos": ["a"], "pos_scores": [1, 2]}, "pos_scores"),
        (convert_flagembedding, {"query": "q", "pos": ["a"], "pos_scores": [None]}, "pos_scores[0]"),
        (convert_flagembedding, {"query": "q", "pos": ["a", 1]}, "pos[1]"),
        (convert_flagembedding, {"query": "q", "pos": ["a"], "neg_titles": ["b"]}, "neg_titles"),
        (convert_dpr_output, {"question": "q", "ctxs": [{"text": "a"}]}, "ctxs[0].has_answer"),
        (
            convert_dpr_output,
            {"question": "q", "ctxs": [{"text": "a", "score": "x", "has_answer": True}]},
            "ctxs[0].score",
        ),
        (lambda record, _: convert_columns(record), {"anchor": "q", "positive": {"text": "a"}}, "positive"),
        (lambda record, _: convert_columns(record), {"anchor": "q", "positive": "a", "label": "yes"}, "label"),
    ],
)
def test_a_wrong_field_is_named(convert, record, field: str) -> None:
    with pytest.raises(FieldError) as error:
        convert(record, Counter())
    assert split_reason(str(error.value)).field == field


def test_a_blank_question_is_skipped() -> None:
    with pytest.raises(SkipRow, match="blank question"):
        convert_tevatron({"query": " ", "positive_passages": []}, Counter())


def test_ambiguous_columns_give_all_choices() -> None:
    assert len(find_columns(["anchor", "query", "positive"])) == 2
    assert find_columns(["anchor", "text"]) == []
    assert find_columns(["query", "positive", "negative", "label"]) == [Columns("query", "positive", ("negative",))]
