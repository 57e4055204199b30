"""Questions: three forms, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from test.datasets.test_collection import SHARED, there
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
    ("content", "message"),
    [
        ("q\t__import__('os').getcwd()\n", r":1: answers are __import__.*; expected a list such as"),
        ("q\t['a', 1]\n", r":1: answers are \['a', 1\]; expected a list"),
        ("q\t'a'\n", r":1: answers are 'a'; expected a list"),
        ("q\n", r":1: 1 columns; expected question and answers, with a tab between"),
        ("q\t[]\n \t[]\n", r":2: question is blank"),
        ('{"question": "q"}\n{"question"', r":2 \(byte 18\): not JSON"),
        ('{"query": "q"}\n', r":1 \(byte 0\): no question; expected an object such as"),
        ('{"question": "q", "answers": "a"}\n', r":1 \(byte 0\): answers are no list of strings"),
        (
            '{"id": 1, "question": "q"}\n{"id": "1", "question": "r"}\n',
            r":2 \(byte 27\): id 1 also stands in .*:1 \(byte 0\); expected",
        ),
        ("\n", r": no questions; expected one a line"),
        ('{"question": "q", "positive_ctxs": 5}\n', r":1 \(byte 0\): positive_ctxs is 5; expected a list"),
        ('{"question": "q\\ud800"}\n', r":1 \(byte 0\): lone surrogate '\\ud800'; expected Unicode text"),
        ("q\t['a\\ud800']\n", r":1: lone surrogate '\\ud800'; expected Unicode text"),
        ('{"question": "q", "positive_ids": "12"}\n', r":1 \(byte 0\): positive_ids is 12; expected a list"),
        ('{"question": "q", "positive_ids": [true]}\n', r":1 \(byte 0\): id is True; expected a string or an integer"),
        ('{"question": "q", "id": 1.0}\n', r":1 \(byte 0\): id is 1.0; expected a string or an integer"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "file", content)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"q\xff\t[]\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_questions(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "num_questions"),
    [("squad_w100/test.qa.csv", 2062), ("beir/cranfield/queries.jsonl", 225), ("openqa/curated_test.jsonl", 430)],
)
def test_real_files(name: str, num_questions: int) -> None:
    questions = read_questions(there(SHARED / name))
    assert len(questions) == num_questions
    assert any(question.regular_expressions for question in questions) == ("curated" in name)
