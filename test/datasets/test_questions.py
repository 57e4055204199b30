"""Tests of reading questions: three formats, and errors."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from test.helpers import shared_file
from text.datasets import Question, read_questions
from text.errors import DataError


def read(path: Path, content: str) -> list[Question]:
    path.write_text(content, encoding="utf-8")
    return read_questions(path)


def test_qa_csv_by_hand(tmp_path: Path) -> None:
    content = (
        "how many\t['60', \"sixty\"]\n"
        'who accredits\t"[""teacher\'s colleges"", \'State Board\']"\n'
        '"a ""quoted"" one"\t[]\n'
    )
    assert read(tmp_path / "qa.csv", content) == [
        Question("0", "how many", ["60", "sixty"]),
        Question("1", "who accredits", ["teacher's colleges", "State Board"]),
        Question("2", 'a "quoted" one', []),
    ]


def test_qa_csv_compressed_or_with_a_byte_order_mark(tmp_path: Path) -> None:
    content = "\ufeffwho\t['a', '', ' ']\n".encode()
    (tmp_path / "qa.csv").write_bytes(content)
    (tmp_path / "qa.csv.gz").write_bytes(gzip.compress(content))
    for name in ("qa.csv", "qa.csv.gz"):
        # Blank answers would match every passage, so they are skipped.
        assert read_questions(tmp_path / name) == [Question("0", "who", ["a"])]


def test_json_lines_by_hand(tmp_path: Path) -> None:
    content = (
        '{"question": "q", "answers": ["a"]}\n\n{"qid": 7, "question": "r", "answers": ["x|y"], '
        '"answer_is_regex": true}\n{"_id": "s1", "text": "t", "metadata": {}}\n'
    )
    assert read(tmp_path / "questions.jsonl", content) == [
        Question("0", "q", ["a"]),
        Question("7", "r", ["x|y"], regular_expressions=True),
        Question("s1", "t", []),
    ]


def test_training_rows_give_positive_ids(tmp_path: Path) -> None:
    rows = [
        '{"question": "q", "answers": [], "positive_ctxs": [{"psg_id": 3, "text": "t"}, {"text": "u"}, {"id": ""}]}',
        '{"qid": "x", "question": "r", "answers": ["a"], "positive_ids": ["p", "o"]}',
    ]
    expected = [Question("0", "q", [], False, ("3",)), Question("x", "r", ["a"], False, ("p", "o"))]
    assert read(tmp_path / "rows.jsonl", "\n".join(rows)) == expected
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write("\n".join(rows))
    assert read_questions(tmp_path / "rows.jsonl.gz") == expected
    assert read(tmp_path / "rows.json", f"[{', '.join(rows)}]") == expected


@pytest.mark.parametrize(
    ("literal", "answers"),
    [
        ("('60', 'sixty')", ["60", "sixty"]),
        ("['60', 'sixty',]", ["60", "sixty"]),
        ("['a', 1985, 2.0]", ["a", "1985", "2"]),
        (r'["a\/b", "\ud83d\ude00"]', ["a/b", "\U0001f600"]),  # Escapes of JSON.
        ("[NaN]", []),
    ],
)
def test_lists_of_python_and_json_are_read(tmp_path: Path, literal: str, answers: list[str]) -> None:
    content = f'q\t"{literal.replace(chr(34), chr(34) * 2)}"\n'
    assert read(tmp_path / "qa.csv", content) == [Question("0", "q", answers)]


@pytest.mark.parametrize(
    "literal",
    [
        "['14 December 1972 UTC' 'December 1972']",  # pandas writes NumPy arrays in this way.
        "['a', 'b' 'c']",
        "['a'\n 'b']",
        "['a' # one\n 'b']",
        "[('a' 'b')]",
        "['it''s']",
        "[['a'], ['b']]",
        "[b'a']",
        "[f'a']",
        "['a' * 2]",
        "('a')",
        "{'a'}",
        "array(['a'], dtype=object)",
        "['a', ...]",
        "nan",
        "",
        "Paris",
    ],
)
def test_literal_that_is_not_a_plain_list_is_refused(tmp_path: Path, literal: str) -> None:
    content = f'r\t["60"]\nq\t"{literal.replace(chr(34), chr(34) * 2)}"\nr\t[]\n'
    with pytest.raises(DataError) as caught:
        read(tmp_path / "qa.csv", content)
    assert str(caught.value).startswith(f"{tmp_path / 'qa.csv'}:2 answers")


def test_other_keys_and_unambiguous_values_are_read(tmp_path: Path) -> None:
    content = (
        '{"query_id": 12.0, "query": "q", "text": "a passage", "answers": "Paris"}\n'
        '{"question": null, "text": "r", "answers": [1985, null, "x"], "score": NaN}\n'
        '{"question": "s\\ud800", "positive_ids": [3.0, "p"]}\n'
        '{"_id": "", "id": "t", "question": 1984, "answer": "Orwell"}\n'
    )
    assert read(tmp_path / "questions.jsonl", content) == [
        Question("12", "q", ["Paris"]),
        Question("1", "r", ["1985", "x"]),
        Question("2", "s\ufffd", [], False, ("3", "p")),
        Question("t", "1984", ["Orwell"]),
    ]


def test_answers_without_a_word_are_skipped_and_counted(tmp_path: Path) -> None:
    blank, counts = ["\u200b", "\ufeff\u200d ", "\x00", " ", "", "\xad"], Counter[str]()
    lines = [{"question": "q", "answers": ["a", *blank, "?"]}, {"question": "r", "answers": "\u2060"}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_questions(tmp_path / "questions.jsonl", counts) == [
        Question("0", "q", ["a", "?"]),
        Question("1", "r", []),
    ]
    assert counts == {"blank answers, left out": 7, "answers that are no list, read as one answer": 1}
    (tmp_path / "qa.csv").write_text("q\t['a', '\u200b']\n", encoding="utf-8")
    assert read_questions(tmp_path / "qa.csv", counts) == [Question("0", "q", ["a"])]
    assert counts["blank answers, left out"] == 8


def test_regular_expression_that_is_invalid_in_nfd_is_counted(tmp_path: Path) -> None:
    counts = Counter[str]()
    (tmp_path / "file").write_text('{"question": "q", "answers": ["Sn\\\\\u011bka"], "answer_is_regex": true}\n')
    assert read_questions(tmp_path / "file", counts)[0].answers == ["Sn\\\u011bka"]
    assert counts.total() == 1


def test_ids_may_hold_white_space(tmp_path: Path) -> None:
    assert read(tmp_path / "questions.jsonl", '{"id": "q 1\\n", "text": "q"}')[0].question_id == "q 1\n"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("q\t__import__('os').getcwd()\n", r":1 answers: .*__import__"),
        ("q\t'a'\n", r":1 answers: "),
        ("q\n", r":1: "),
        ("q\t[]\n \t[]\n", r":2 question: "),
        ('q\t"[""a"",\n""b""]"\nr\n', r":3: "),
        ('{"question": "q"}\n{"question"', r":2 \(byte 29\): "),
        ('{"id": 1, "prompt": "q"}\n', r":1 \(byte 0\) question: .*id, prompt"),
        ('{"question": true}\n', r":1 \(byte 0\) question: "),
        ('{"question": "q", "answers": ["a", {}]}\n', r":1 \(byte 0\) answers\[1\]: "),
        ('{"question": "q", "answers": "[\'a\' \'b\']"}\n', r":1 \(byte 0\) answers: "),
        ('{"id": 1, "question": "q"}\n{"id": "1", "question": "r"}\n', r':2 \(byte 27\) id: "1" .*:1 \(byte 0\)'),
        ('{"id": " ", "question": "q"}\n', r":1 \(byte 0\) id: "),
        ("\n", r": "),
        ('{"question": "q", "positive_ctxs": 5}\n', r":1 \(byte 0\) positive_ctxs: "),
        ("q\t['a\\ud800']\n", r":1: .*'\\ud800'"),
        ('{"question": "q", "positive_ids": "12"}\n', r":1 \(byte 0\) positive_ids: "),
        ('{"question": "q", "positive_ids": [true]}\n', r":1 \(byte 0\) positive_ids\[0\]: "),
        (
            '{"question": "q", "positive_ctxs": [{"id": "1"}, {"id": true}]}\n',
            r":1 \(byte 0\) positive_ctxs\[1\]\.id: ",
        ),
        ('{"question": "q", "answers": [], "question": "r"}\n', r":1 \(byte 0\) question: "),
        ('{"question": "q", "answers": ["array([\'a\'], dtype=object)"]}\n', r":1 \(byte 0\) answers: "),
        ('{"question": "q", "id": "1"}\n{"question": "r"}\n', r':2 \(byte 29\) id: "1" .*:1 \(byte 0\).*line'),
        ('{"question": "q", "id": 1.5}\n', r":1 \(byte 0\) id: "),
        ('{"question": "q", "answer_is_regex": "false"}\n', r":1 \(byte 0\) answer_is_regex: "),
        ('{"question": "q", "answer_is_regex": 0}\n', r":1 \(byte 0\) answer_is_regex: "),
        ('{"question": "q", "answers": ["a", "(net"], "answer_is_regex": true}\n', r":1 \(byte 0\) answers: \(net "),
        ('q\t[]\n"q" is\t[]\n', r":2: .*double the quotes"),
        ("q\tnan\n", r":1 answers: .*pandas"),
        ("q\t\"array(['a'], dtype=object)\"\n", r":1 answers: .*pandas"),
    ],
)
def test_error_of_a_question_has_its_place(tmp_path: Path, content: str, place: str) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file")) + place):
        read(tmp_path / "file", content)


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"q\xff\t[]\n")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file"))):
        read_questions(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "num_questions"),
    [("squad_w100/test.qa.csv", 2062), ("beir/cranfield/queries.jsonl", 225), ("openqa/curated_test.jsonl", 430)],
)
def test_real_files(name: str, num_questions: int) -> None:
    questions = read_questions(shared_file(name))
    assert len(questions) == num_questions
    assert any(question.regular_expressions for question in questions) == ("curated" in name)


@pytest.mark.parametrize("content", [b"a\t['x']\rb\t['y']\n", b"ok\t['x']\n\na\rb\t['y']\n"])
def test_lone_carriage_return_in_csv_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "qa.csv"
    path.write_bytes(content)
    line = 1 + content.count(b"\n", 0, content.rindex(b"\r"))
    with pytest.raises(DataError, match=rf"qa\.csv:{line}: "):
        read_questions(path)
    path.write_bytes(content.replace(b"\r", b"\r\n") if line == 1 else content.replace(b"\r", b""))
    assert len(read_questions(path)) == 2


def test_long_fields_are_read_and_the_csv_limit_is_restored(tmp_path: Path) -> None:
    path, limit = tmp_path / "qa.csv", csv.field_size_limit()
    answers = json.dumps(["x" * 300_000])
    path.write_text(f"what\t{answers}\n")
    [question] = read_questions(path)
    assert len(question.answers[0]) == 300_000 and csv.field_size_limit() == limit
    path.write_text('what\t"' + ("x" * 1023 + "\n") * (18 << 10))
    with pytest.raises(DataError, match=r"qa\.csv:1: "):
        read_questions(path)
    assert csv.field_size_limit() == limit


def test_repeated_key_that_looks_like_a_place_has_its_line(tmp_path: Path) -> None:
    key = f"[{'9' * 5000}]"
    row = f'{{"question": "what", "{key}": 1, "{key}": 2}}'
    for name, content in (("q.jsonl", row), ("q.json", f"[{row}]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=rf"{name}:1 "):
            read_questions(tmp_path / name)
