"""Tests of parse_row and check_row: conversion of records, and handling of invalid fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NamedTuple

import pytest
import simdjson

from test.helpers import context, drop_fields, record
from text.datasets.formats.dpr_record import POOLS, CheckedRow, SkipRow, check_row, parse_row
from text.datasets.formats.values import FieldError
from text.records import Passage


class UsableRow(NamedTuple):
    """Row with only its usable passages."""

    question: str
    answers: list[str]
    positives: list[Passage]
    hard_negatives: list[Passage]
    other_negatives: list[Passage]


def parse(row: dict[str, Any]) -> tuple[UsableRow, dict[str, int]]:
    """Return the usable parts of a row, and the counts."""
    counts: Counter[str] = Counter()
    check(row, counts)
    record = simdjson.Parser().parse(json.dumps(row).encode())
    assert isinstance(record, simdjson.Object)
    read = parse_row(record)
    hard_negatives, other_negatives = (
        [passage for passage in pool if passage is not None] for pool in (read.hard_negatives, read.other_negatives)
    )
    return UsableRow(read.question, read.answers, read.positives, hard_negatives, other_negatives), dict(+counts)


def check(row: dict[str, Any], counts: Counter[str]) -> CheckedRow:
    line = json.dumps(row).encode()
    record = simdjson.Parser().parse(line)
    assert isinstance(record, simdjson.Object)
    return check_row(record, line, None, counts)


def find_refused_field(row: dict[str, Any]) -> str:
    """Return the field that the error names."""
    with pytest.raises(FieldError) as caught:
        parse(row)
    field, _, sentence = str(caught.value).partition(": ")
    assert sentence and "\n" not in sentence
    return field


def passage(text: str = "some text", **fields: Any) -> dict[str, Any]:
    return {"text": text, **fields}


def test_record_by_hand() -> None:
    row = {
        "dataset": "nq",
        "question": "who wrote emma",
        "answers": ["Jane Austen", "Austen"],
        "positive_ctxs": [
            {"title": "Emma", "text": "A novel by Austen.", "score": 1000, "title_score": 1, "passage_id": "12"},
            {"title": "Austen", "text": "She wrote Emma.", "score": "9.5", "passage_id": "7"},
        ],
        "hard_negative_ctxs": [{"title": "Emma (film)", "text": "A film.", "passage_id": "99"}],
        "negative_ctxs": [{"title": "Oak", "text": "A tree.", "passage_id": "3"}],
    }
    assert parse(row) == (
        UsableRow(
            question="who wrote emma",
            answers=["Jane Austen", "Austen"],
            positives=[Passage("12", "Emma", "A novel by Austen."), Passage("7", "Austen", "She wrote Emma.")],
            hard_negatives=[Passage("99", "Emma (film)", "A film.")],
            other_negatives=[Passage("3", "Oak", "A tree.")],
        ),
        {},
    )


def test_text_is_kept_exactly() -> None:
    # Texts are not normalized: NFC, NFD, right-to-left text, emoji and blanks at the ends stay as they are.
    texts = ["\u00e9", "e\u0301", "שלום", "👩‍🔬", " a \n", "\0"]
    row = record(texts[0], positive_ctxs=[passage(text, title=text) for text in texts], answers=texts[:-1])
    example, _ = parse(row)
    assert (example.question, example.answers) == (texts[0], texts[:-1])  # The last text has no word.
    assert example.positives == [Passage("", text, text) for text in texts]


@pytest.mark.parametrize("row", [drop_fields(record(), "answers"), record(answers=None), record(answers=[])])
def test_missing_answers_are_empty(row: dict[str, Any]) -> None:
    assert parse(row)[0].answers == []


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        ("['a']", "answers"),
        ("['a' 'b']", "answers"),
        ("('a', 'b')", "answers"),
        ("{'text': ['a'], 'answer_start': [1]}", "answers"),
        ("{'language', 'x'}", "answers"),
        ("['a'", "answers"),
        ("array(['a'], dtype=object)", "answers"),
        (["['a' 'b']"], "answers"),
        (["[np.str_('a'), np.str_('b')]"], "answers"),
        (["['a',\n 'b']"], "answers"),
        (["array(['net'], dtype=object)"], "answers"),
        (['("a", "b")'], "answers"),
        ({"a": 1}, "answers"),
        (True, "answers"),
        (["a", False], "answers[1]"),
        ([["a"]], "answers[0]"),
        ([1e300], "answers[0]"),
    ],
)
def test_answers_of_the_wrong_type_are_refused(answers: Any, field: str) -> None:
    assert find_refused_field(record(answers=answers)) == field


@pytest.mark.parametrize(
    ("answers", "expected", "counts"),
    [
        ("Paris", ["Paris"], {"answers that are no list, read as one answer": 1}),
        ("(500) Days", ["(500) Days"], {"answers that are no list, read as one answer": 1}),
        (1985, ["1985"], {"answers that are no list, read as one answer": 1}),
        ([1985, 12.0, 2.5], ["1985", "12", "2.5"], {"answers that are numbers, read as text": 3}),
        (["a", None], ["a"], {"blank answers, left out": 1}),
        ("[sic] yes", ["[sic] yes"], {"answers that are no list, read as one answer": 1}),
        (["[0, 1]"], ["[0, 1]"], {}),
        (["[sic]"], ["[sic]"], {}),
        (['("Weird Al") Yankovic'], ['("Weird Al") Yankovic'], {}),
        (["['\"]?x"], ["['\"]?x"], {}),
        (["['a']", "b"], ["['a']", "b"], {}),
        ("", [], {"answers that are no list, read as one answer": 1, "blank answers, left out": 1}),
    ],
)
def test_unambiguous_answers_are_read_and_counted(answers: Any, expected: list[str], counts: Any) -> None:
    read, found = parse(record(answers=answers))
    assert (read.answers, found) == (expected, counts)


def test_answers_may_be_under_the_key_answer() -> None:
    row = drop_fields(record(), "answers")
    assert parse(row | {"answer": "a", "answers": None})[0].answers == ["a"]
    assert parse(row | {"answer": ["a", "b"]})[0].answers == ["a", "b"]
    assert parse(record(answers=["a"], answer="b"))[0].answers == ["a"]
    assert parse(row | {"answer": {"value": "a"}})[0].answers == []  # Other data sets use this form.
    assert find_refused_field(row | {"answer": "['a']"}) == "answers"


# The schema


def test_blank_answers_are_left_out() -> None:
    read, counts = parse(record(answers=["", "a", " \n"]))
    assert (read.answers, counts) == (["a"], {"blank answers, left out": 2})


def test_scores_are_ignored_but_must_be_json() -> None:
    scores = [1000, 1.5, "7.25", None]
    assert parse(record(negative_ctxs=[passage(str(i), score=score) for i, score in enumerate(scores)]))[1] == {}
    with pytest.raises(ValueError):
        simdjson.Parser().parse(b'{"score": NaN}')


def test_missing_question_is_refused_with_the_keys_found() -> None:
    keys = "answers, positive_ctxs, hard_negative_ctxs, negative_ctxs"
    with pytest.raises(FieldError, match=rf"^question: .*\b{keys}$"):
        parse(drop_fields(record(), "question"))
    assert find_refused_field({}) == "question"


def test_question_that_is_a_number_is_read_and_counted() -> None:
    read, counts = parse(record(1984, hard=0))
    assert read.question == "1984"
    assert counts == {"questions that are numbers, read as text": 1}


def test_text_that_is_a_number_is_refused_with_its_field() -> None:
    assert find_refused_field(record(positive_ctxs=[passage("a"), passage() | {"text": 7}])) == "positive_ctxs[1].text"


@pytest.mark.parametrize("question", [None, 1e300, True, ["q"], {"text": "q"}])
def test_question_of_the_wrong_type_is_refused(question: Any) -> None:
    assert find_refused_field(record(question=question)) == "question"


@pytest.mark.parametrize("question", ["", " ", "\t\n", "\u00a0\u2003"])
def test_row_with_a_blank_question_is_skipped(question: str) -> None:
    with pytest.raises(SkipRow, match=r"^blank question$"):
        parse(record(question))


@pytest.mark.parametrize(
    "row", [record(positives=0), drop_fields(record(), "positive_ctxs"), record(positive_ctxs=None)]
)
def test_row_without_positive_is_skipped(row: dict[str, Any]) -> None:
    # The row has negatives. None of them may replace the positive.
    with pytest.raises(SkipRow, match=r"^no positive_ctxs$"):
        parse(row)


@pytest.mark.parametrize("pool", ["hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("absent", [True, False])
def test_missing_pool_of_negatives_is_counted(pool: str, absent: bool) -> None:
    example, counts = parse(drop_fields(record(), pool) if absent else record() | {pool: None})
    assert counts == {f"rows without {pool}": 1}
    assert len(example.hard_negatives) == (0 if pool == "hard_negative_ctxs" else 2)
    assert len(example.other_negatives) == (0 if pool == "negative_ctxs" else 2)


def test_empty_pool_of_negatives_is_not_missing() -> None:
    example, counts = parse(record(hard=0, other=0))
    assert (example.hard_negatives, example.other_negatives, counts) == ([], [], {})


@pytest.mark.parametrize("fields", [{}, {"title": None}, {"title": ""}])
def test_missing_title_is_empty(fields: dict[str, Any]) -> None:
    example, _ = parse(record(positive_ctxs=[passage(**fields)], hard_negative_ctxs=[passage("b", **fields)]))
    assert [example.positives[0].title, example.hard_negatives[0].title] == ["", ""]


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs"])
@pytest.mark.parametrize(("title", "expected"), [(1984, "1984"), (1984.0, "1984"), (0.5, "0.5")])
def test_title_that_is_a_number_is_read_and_counted(pool: str, title: float, expected: str) -> None:
    read, counts = parse(record(hard=0) | {pool: [passage(title=title)]})
    assert (read.positives + read.hard_negatives)[-1].title == expected
    assert counts == {"titles that are numbers, read as text": 1}


@pytest.mark.parametrize("title", [1e300, False, ["t"]])
def test_title_of_the_wrong_type_is_refused(title: Any) -> None:
    row = record(negative_ctxs=[passage("b"), passage("c", title=title)])
    assert find_refused_field(row) == "negative_ctxs[1].title"


@pytest.mark.parametrize("bad", [{"text": None}, {"text": ""}, {"contents": " \n"}])
def test_positive_without_text_is_left_out_and_counted(bad: dict[str, Any]) -> None:
    read, counts = parse(record(positive_ctxs=[bad, passage("a"), bad | {"title": " "}]))
    assert [positive.text for positive in read.positives] == ["a"]
    assert counts == {"positive_ctxs without text, left out": 2}
    with pytest.raises(SkipRow, match=r"^no positive_ctxs with text$"):
        parse(record(positive_ctxs=[bad, bad]))


def test_passage_with_only_a_title_is_read_and_counted() -> None:
    alone = [{"title": "a", "text": ""}, {"title": "b", "text": " \n"}]
    read, counts = parse(
        record(positive_ctxs=alone, hard_negative_ctxs=[{"title": "c", "text": ""}, {"title": "d", "text": None}])
    )
    assert [(positive.title, positive.text) for positive in read.positives] == [("a", ""), ("b", "")]
    assert [(negative.title, negative.text) for negative in read.hard_negatives] == [("c", "")]
    assert counts == {
        "positive_ctxs with a title alone": 2,
        "hard_negative_ctxs with a title alone": 1,
        "hard_negative_ctxs without text, left out": 1,
    }


@pytest.mark.parametrize("bad", [{"text": None}, {"text": ""}, {"contents": " \n"}])
def test_negative_without_text_is_left_out_and_counted(bad: dict[str, Any]) -> None:
    row = record(hard_negative_ctxs=[passage("b"), bad, bad, passage("c")], negative_ctxs=[bad])
    example, counts = parse(row)
    assert [negative.text for negative in example.hard_negatives] == ["b", "c"]
    assert example.other_negatives == []
    assert counts == {"hard_negative_ctxs without text, left out": 2, "negative_ctxs without text, left out": 1}


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs", "negative_ctxs"])
def test_null_in_a_pool_is_left_out_and_counted(pool: str) -> None:
    read, counts = parse(record(hard=0, other=0) | {pool: [passage("a"), None]})
    passages = read[2:][POOLS.index(pool)]
    assert [each.text for each in passages] == ["a"]
    assert counts == {f"{pool} without text, left out": 1}


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("keys", [["content"], ["title", "body"], ["Text"], []])
def test_text_under_another_key_is_refused_with_the_keys_found(pool: str, keys: list[str]) -> None:
    row = record() | {pool: [passage(), dict.fromkeys(keys, "some text")]}
    assert find_refused_field(row) == f"{pool}[1].text"
    with pytest.raises(FieldError, match=", ".join(keys) or "none"):
        parse(row)


def test_text_under_the_key_of_pyserini_is_read() -> None:
    read, counts = parse(
        record(positive_ctxs=[{"contents": "a"}], hard_negative_ctxs=[{"contents": "b", "text": None}])
    )
    assert (read.positives[0].text, read.hard_negatives[0].text, counts) == ("a", "b", {})


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("text", [["some", "text"], True, {}])
def test_text_that_is_not_a_string_is_refused(pool: str, text: Any) -> None:
    assert find_refused_field(record() | {pool: [{"text": text}]}) == f"{pool}[0].text"


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("item", ["some text", 12, []])
def test_passage_that_is_not_an_object_is_refused(pool: str, item: Any) -> None:
    assert find_refused_field(record() | {pool: [passage(), item]}) == f"{pool}[1]"


@pytest.mark.parametrize("pool", ["positive_ctxs", "hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("value", ["some text", {"text": "a"}, 0])
def test_pool_that_is_not_a_list_is_refused(pool: str, value: Any) -> None:
    assert find_refused_field(record() | {pool: value}) == pool


@pytest.mark.parametrize("key", ["passage_id", "psg_id", "id", "docidx"])
@pytest.mark.parametrize(
    "value, passage_id",
    [("007", "007"), ("7", "7"), ("wiki:12", "wiki:12"), (7, "7"), (0, "0"), (2**64 - 1, f"{2**64 - 1}")],
)
def test_passage_id_is_read_from_each_key(key: str, value: Any, passage_id: str) -> None:
    row = record(positive_ctxs=[passage(**{key: value})], negative_ctxs=[passage("b", **{key: value})], hard=0)
    example, counts = parse(row)
    assert example.positives[0].passage_id == passage_id
    assert counts == {"negative_ctxs that are positives, left out": 1}  # Both passages have this id.


def test_ids_are_compared_as_text() -> None:
    row = record(positive_ctxs=[passage(id="7")], hard_negative_ctxs=[passage("b", id="007"), passage("c", id=7)])
    example, counts = parse(row)
    assert [negative.passage_id for negative in example.hard_negatives] == ["007"]
    assert counts == {"hard_negative_ctxs that are positives, left out": 1}


@pytest.mark.parametrize("key", ["passage_id", "psg_id", "id", "docidx"])
@pytest.mark.parametrize(("value", "expected"), [(12.0, "12"), (-1.0, "-1"), (-0.0, "0")])
def test_passage_id_that_is_a_whole_float_is_read_and_counted(key: str, value: float, expected: str) -> None:
    read, counts = parse(record(positive_ctxs=[passage() | {key: value}]))
    assert read.positives[0].passage_id == expected
    assert counts == {"ids such as 12.0, read as 12": 1}


@pytest.mark.parametrize("key", ["passage_id", "psg_id", "id", "docidx"])
@pytest.mark.parametrize("value", [True, 1.5, float(2**53), float(2**64), [1]])
def test_passage_id_of_the_wrong_type_is_refused(key: str, value: Any) -> None:
    # The parser returns an integer of 2^64 or more as a float.
    row = record(hard_negative_ctxs=[passage("b", **{key: value})])
    assert find_refused_field(row) == f"hard_negative_ctxs[0].{key}"


@pytest.mark.parametrize("fields", [{}, {"passage_id": None, "psg_id": None}])
def test_missing_passage_id_is_empty(fields: dict[str, Any]) -> None:
    assert parse(record(positive_ctxs=[passage(**fields)]))[0].positives[0].passage_id == ""


def test_pool_of_ids_may_be_null() -> None:
    row = record(positive_ids=None)
    assert parse(row)[0].positives and check(row, Counter())[1:] == check(record(), Counter())[1:]


def test_first_id_key_that_is_present_is_used() -> None:
    row = record(positive_ctxs=[passage(docidx=4, id="3", psg_id="2", passage_id=None)])
    assert parse(row)[0].positives[0].passage_id == "2"


def test_extra_fields_are_ignored() -> None:
    plain = record()
    extra = record(dataset="nq", id=[1], positive_ctxs=[context("q+0") | {"score": "x", "has_answer": True}])
    assert parse(extra) == parse(plain)


@pytest.mark.parametrize("pool", ["hard_negative_ctxs", "negative_ctxs"])
@pytest.mark.parametrize("repeated", [passage("other words", id="2"), passage("second positive", id="8")])
def test_positive_among_the_negatives_is_left_out_and_counted(pool: str, repeated: dict[str, Any]) -> None:
    # The repeated passage has the same id as a positive, or the same text.
    positives = [passage("first positive", id="1"), passage("second positive", id="2")]
    row = record(positive_ctxs=positives) | {pool: [passage("a", id="5"), repeated, passage("b", id="6")]}
    example, counts = parse(row)
    pools = {"hard_negative_ctxs": example.hard_negatives, "negative_ctxs": example.other_negatives}
    assert [negative.text for negative in pools[pool]] == ["a", "b"]
    assert counts == {f"{pool} that are positives, left out": 1}


def test_passages_without_ids_are_different() -> None:
    example, counts = parse(
        record(positive_ctxs=[passage("a")], hard_negative_ctxs=[passage("b"), passage("c", id="")])
    )
    assert len(example.hard_negatives) == 2
    assert counts == {}


def test_ids_are_not_compared_with_texts() -> None:
    row = record(
        positive_ctxs=[passage("1984", id="12")],
        hard_negative_ctxs=[passage("12", id="3"), passage("a book", id="1984")],
    )
    example, counts = parse(row)
    assert [negative.passage_id for negative in example.hard_negatives] == ["3", "1984"]
    assert counts == {}


@pytest.mark.parametrize("name", ["query", "Question", "questions"])
def test_foreign_key_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(FieldError, match=rf"^question: .*\b{name}, pos, neg$"):
        parse({name: "q", "pos": [], "neg": []})


# Repeated keys: a parser would silently use one of the two values.


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "q", "question": "r", "positive_ctxs": [{"text": "a"}]}',
        '{"question": "q", "positive_ctxs": [{"text": "a", "question": "b", "question": "b"}]}',
        '{"question": "q", "positive_ctxs": [{"text": "a"}], "negative_ctxs": [{}, {"question": 1, "question": 2}]}',
        '{"question": "q", "positive_ctxs": [{"text": "a", "meta": {"question": 1, "question": 1}}]}',
        '{"question": "q", "positive_ctxs": [{"text": "a"}], "more": [[{"a": {"question": 1, "question": 1}}]]}',
        '{"question": "{", "positive_ctxs": [{"text": "a"}], "more": {"question": 1, "question": 1}}',
        '{"question": "q", "positive_ctxs": [{"text": "a"}], "qu\\u0065stion": "r"}',
        '{"question": "{{", "positive_ctxs": [{"text": "{"}], "more": {"question": 1, "question": 1}}',
        '{"question": "\\u007b", "positive_ctxs": [{"text": "a"}], "more": {"question": 1, "question": 1}}',
        '{"question": "\\u007B", "positive_ctxs": [{"text": "a"}], "more": {"question": 1, "question": 1}}',
    ],
)
def test_repeated_key_is_refused(line: str) -> None:
    record = simdjson.Parser().parse(line.encode())
    assert isinstance(record, simdjson.Object)
    with pytest.raises(FieldError, match=r"^question: "):
        check_row(record, line.encode(), None, Counter())


def test_equal_keys_of_different_objects_are_read() -> None:
    row = record(meta={"text": {"text": "{"}}, more=[{"a": 1}, {"a": 1}])
    assert parse(row)[1] == {}


# Scores


def read_scores(row: dict[str, Any]) -> list[float | None]:
    """Return the scores of all passages of a row. The row is checked first."""
    line = json.dumps(row).encode()
    parsed = simdjson.Parser().parse(line)
    assert isinstance(parsed, simdjson.Object)
    check_row(parsed, line, None, Counter(), "teacher")
    read = parse_row(parsed, None, "teacher")
    pools = (read.positives, read.hard_negatives, read.other_negatives)
    return [passage.score for pool in pools for passage in pool if passage is not None]


def test_scores_of_passages_are_read_on_request() -> None:
    row = {
        "question": "q",
        "positive_ctxs": [passage("a", teacher=5, score="1000"), passage("b", teacher=-0.5)],
        "hard_negative_ctxs": [passage("c", teacher=1e-3), passage(" ")],
    }
    assert read_scores(row) == [5.0, -0.5, 0.001]
    assert {p.score for p in parse(row)[0].positives} == {None}


@pytest.mark.parametrize("value", ["5", True, None, [1], 1e39])
def test_score_that_is_not_a_number_is_refused(value: Any) -> None:
    row = record()
    for pool in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs"):
        for each in row[pool]:
            each["teacher"] = 1.5
    row["hard_negative_ctxs"][1]["teacher"] = value
    with pytest.raises(FieldError, match=r"^hard_negative_ctxs\[1\]\.teacher: "):
        read_scores(row)


def test_compact_row_without_the_scores_of_a_score_key_is_refused() -> None:
    with pytest.raises(FieldError, match=r"^teacher: null.*scores"):
        read_scores({"question": "q", "positive_ids": ["1"]})


# Compact rows


class NumberCollection:
    """Collection of the passages 1 to 9. 5 is blank, 7 has only a title, 4 and 6 have the same title and text."""

    def find(self, passage_id: str) -> Passage:
        if passage_id not in list("123456789"):
            raise KeyError(passage_id)
        content = {"6": "4"}.get(passage_id, passage_id)
        title, text = {"5": ("", " "), "7": ("title 7", "")}.get(passage_id, (f"title {content}", f"text {content}"))
        return Passage(passage_id, title, text)


def read_compact(row: dict[str, Any]) -> tuple[list[str], list[str | None], list[str | None], dict[str, int]]:
    """Return the ids of the three pools, and the counts."""
    line = json.dumps(row).encode()
    record = simdjson.Parser().parse(line)
    assert isinstance(record, simdjson.Object)
    counts: Counter[str] = Counter()
    check_row(record, line, NumberCollection(), counts)
    read = parse_row(record, NumberCollection())
    hard, other = ([p and p.passage_id for p in pool] for pool in (read.hard_negatives, read.other_negatives))
    return [passage.passage_id for passage in read.positives], hard, other, dict(+counts)


def test_compact_row_by_hand() -> None:
    row = {"question": "q", "answers": [], "positive_ids": ["4", 1], "hard_negative_ids": [5, "6", "2", 1, 7, None]}
    # 5 is blank, 6 has the title and text of a positive, 1 is a positive, and 7 has only a title.
    assert read_compact(row) == (
        ["4", "1"],
        [None, None, "2", None, "7", None],
        [],
        {
            "hard_negative_ids without text, left out": 2,
            "hard_negative_ids that are positives, left out": 2,
            "hard_negative_ids with a title alone": 1,
            "rows without negative_ids": 1,
        },
    )


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"positive_ids": ["1", "x"]}, "positive_ids[1]: "),
        ({"positive_ids": ["1"], "negative_ids": [2, 0]}, "negative_ids[1]: "),
        ({"positive_ids": [1.5]}, "positive_ids[0]: "),
        ({"positive_ids": [True]}, "positive_ids[0]: "),
        ({"positive_ids": "1"}, "positive_ids: "),
    ],
)
def test_fault_in_a_compact_row_is_refused_with_its_field(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(FieldError, match=r"^" + re.escape(place)):
        read_compact({"question": "q", **fields})


def test_compact_row_with_a_positive_without_text() -> None:
    positives, *_, counts = read_compact({"question": "q", "positive_ids": ["5", 1.0]})
    assert positives == ["1"]
    assert counts["positive_ids without text, left out"] == counts["ids such as 12.0, read as 12"] == 1
    with pytest.raises(SkipRow, match=r"^no positive_ids with text$"):
        read_compact({"question": "q", "positive_ids": ["5"]})


def test_compact_row_without_positive_is_skipped() -> None:
    with pytest.raises(SkipRow, match=r"^no positive_ids$"):
        read_compact({"question": "q", "positive_ids": []})


def test_compact_row_without_collection_is_refused() -> None:
    with pytest.raises(FieldError, match=r"^positive_ids: "):
        check({"question": "q", "positive_ids": ["1"]}, Counter())


def test_counts_add_up_over_rows() -> None:
    counts: Counter[str] = Counter()
    for _ in range(3):
        check(record(negative_ctxs=None, hard_negative_ctxs=[None, {"text": ""}]), counts)
    assert +counts == {"rows without negative_ctxs": 3, "hard_negative_ctxs without text, left out": 6}
