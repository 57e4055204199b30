"""Questions: three forms, and what is refused."""

from __future__ import annotations

import gzip
import re
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
        assert read_questions(tmp_path / name) == [Question("0", "who", ["a"])]  # a blank answer stands everywhere


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


def test_training_rows_say_what_answers(tmp_path: Path) -> None:
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
    ("content", "place"),
    [
        ("q\t__import__('os').getcwd()\n", r":1: answers .*__import__"),
        ("q\t['a', 1]\n", r":1: answers "),
        ("q\t'a'\n", r":1: answers "),
        ("q\n", r":1: "),
        ("q\t[]\n \t[]\n", r":2: question "),
        ('{"question": "q"}\n{"question"', r":2 \(byte 18\): "),
        ('{"query": "q"}\n', r":1 \(byte 0\): .*question"),
        ('{"question": "q", "answers": "a"}\n', r":1 \(byte 0\): answers "),
        ('{"id": 1, "question": "q"}\n{"id": "1", "question": "r"}\n', r":2 \(byte 27\): id 1 .*:1 \(byte 0\)"),
        ("\n", r": "),
        ('{"question": "q", "positive_ctxs": 5}\n', r":1 \(byte 0\): positive_ctxs "),
        ('{"question": "q\\ud800"}\n', r":1 \(byte 0\): .*'\\ud800'"),
        ("q\t['a\\ud800']\n", r":1: .*'\\ud800'"),
        ('{"question": "q", "positive_ids": "12"}\n', r":1 \(byte 0\): positive_ids "),
        ('{"question": "q", "positive_ids": [true]}\n', r":1 \(byte 0\): id .*True"),
        ('{"question": "q", "id": 1.0}\n', r":1 \(byte 0\): id .*1\.0"),
    ],
)
def test_wrong_question_is_refused_with_its_place(tmp_path: Path, content: str, place: str) -> None:
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
