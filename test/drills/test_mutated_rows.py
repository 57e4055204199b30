"""Damaged rows, collections, questions, qrels and runs give an error of the library or the rows of a strict reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from test.helpers import records
from text.commands.cli import get_exit_code
from text.datasets import DPRDataPipe, PassageCollection, read_ids, read_questions, select_rows
from text.errors import DataError
from text.evaluation import read_qrels, read_run

pytestmark = pytest.mark.slow
COUNT = 1000
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Return the result of a reader, or None if it refuses the file with the right error."""
    try:
        return reader(path)
    except DataError as error:
        message = str(error)
        assert get_exit_code(error) == 3
        assert str(path) in message and message.isprintable(), message
        return None


def drill(path: Path, content: bytes, seed: int, reader: Callable[[Path], Any], oracle: Callable[[bytes], Any]) -> int:
    """Read many damaged files, compare the results with an oracle, and return the number of refused files."""
    num_refused = 0
    for random in make_generators(seed, COUNT):
        changed = mutate_bytes(content, random)
        path.write_bytes(changed)
        found = read(path, reader)
        num_refused += found is None
        if found is not None:
            assert found == oracle(changed), changed
    assert 0 < num_refused < COUNT
    return num_refused


def parse_strict_json(line: bytes) -> dict[str, Any]:
    return json.loads(line.decode("utf-8-sig"))


def parse_rows(content: bytes) -> list[dict[str, Any]]:
    """Return the rows that are not blank, parsed by Python's json module."""
    return [parse_strict_json(line) for line in content.split(b"\n") if line.strip()]


def test_rows(tmp_path: Path) -> None:
    content = b"".join(json.dumps(row).encode() + b"\n" for row in records(4))

    def questions(path: Path) -> list[Any]:
        pipe = DPRDataPipe(path, 2, train=True, max_skipped=0.9)
        skipped = {row.line for row in pipe.skipped}
        found = sorted(example.question for batch in pipe for example in batch)
        return [found, skipped]

    def oracle(content: bytes) -> Any:
        lines = content.split(b"\n")
        rows = {number: parse_strict_json(line) for number, line in enumerate(lines, start=1) if line.strip()}
        with_faults = {row.line for row in DPRDataPipe(tmp_path / "rows.jsonl", 2, train=True, max_skipped=0.9).skipped}
        return [sorted(row["question"] for number, row in rows.items() if number not in with_faults), with_faults]

    drill(tmp_path / "rows.jsonl", content, 1, questions, oracle)


def test_selected_rows(tmp_path: Path) -> None:
    content = json.dumps(records(4), indent=1).encode()
    out = tmp_path / "out.jsonl"

    def select(path: Path) -> list[dict[str, Any]]:
        select_rows(path, out, 10, overwrite=True)
        return parse_rows(out.read_bytes())

    def oracle(content: bytes) -> list[dict[str, Any]]:
        kept = parse_rows(out.read_bytes())
        rows = json.loads(content.decode("utf-8-sig"))
        assert all(row in rows for row in kept)
        return kept

    drill(tmp_path / "raw.json", content, 2, select, oracle)
    assert {path.name for path in tmp_path.iterdir()} == {"raw.json", "out.jsonl"}  # no temporary files


def test_values_of_rows(tmp_path: Path) -> None:
    """A value of another type makes its row unusable or is read as text. Other rows are not affected."""
    path = tmp_path / "rows.jsonl"
    for random in make_generators(3, COUNT):
        row = mutate_json(records(1)[0], random)
        if not isinstance(row, dict):
            continue
        path.write_text("".join(json.dumps(each) + "\n" for each in [row, *records(3)[1:]]))
        found = read(path, lambda path: list(DPRDataPipe(path, 3, train=True, max_skipped=0.9)))
        if found is not None:
            assert {"q1", "q2"} <= {example.question for batch in found for example in batch}


@pytest.mark.parametrize("form", ["jsonl", "tsv"])
def test_collection(tmp_path: Path, form: str) -> None:
    names = [f"p{number}" for number in range(6)]
    if form == "jsonl":
        content = b"".join(json.dumps({"_id": n, "title": f"t {n}", "text": f"x {n}"}).encode() + b"\n" for n in names)
    else:
        content = b"id\ttext\ttitle\n" + b"".join(f"{n}\tx {n}\tt {n}\n".encode() for n in names)

    def passages(path: Path) -> list[tuple[str, str]]:
        collection = PassageCollection(path)
        found = [(each.passage_id, each.text) for each in collection]
        assert all(collection.find(name).text == text for name, text in found)
        return found

    def oracle(content: bytes) -> list[tuple[str, str]]:
        if form == "jsonl":
            return [(str(row["_id"]), str(row.get("text") or "")) for row in parse_rows(content)]
        lines = [
            line.removesuffix("\r").split("\t") for line in content.decode("utf-8-sig").split("\n") if line.strip()
        ]
        place = {name: number for number, name in enumerate(lines[0])}
        return [(fields[place["id"]], fields[place["text"]]) for fields in lines[1:]]

    drill(tmp_path / f"c.{form}", content, 4, passages, oracle)


def test_questions_as_a_table(tmp_path: Path) -> None:
    content = b"".join(f"what is {n}\t['answer {n}', \"it's\"]\n".encode() for n in range(6))

    def questions(path: Path) -> list[str]:
        return [each.text for each in read_questions(path)]

    def oracle(content: bytes) -> list[str]:
        lines = [line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n")]
        return [line.split("\t")[0].removeprefix('"').removesuffix('"') for line in lines if line]

    drill(tmp_path / "qa.csv", content, 5, questions, oracle)


def test_questions_as_json(tmp_path: Path) -> None:
    content = b"".join(json.dumps({"_id": f"q{n}", "text": f"what is {n}"}).encode() + b"\n" for n in range(6))

    def questions(path: Path) -> list[tuple[str, str]]:
        return [(each.question_id, each.text) for each in read_questions(path)]

    def oracle(content: bytes) -> list[tuple[str, str]]:
        rows = [(number, parse_strict_json(line)) for number, line in enumerate(content.split(b"\n")) if line.strip()]
        return [(str(row.get("_id", row.get("id", number))), str(row["text"])) for number, row in rows]

    drill(tmp_path / "queries.jsonl", content, 6, questions, oracle)


def split_columns(content: bytes) -> list[list[str]]:
    return [line.split() for line in content.decode("utf-8-sig").split("\n") if line.strip()]


def test_qrels(tmp_path: Path) -> None:
    content = b"".join(f"q{n}\t0\tp{n}\t{n % 3}\n".encode() for n in range(10))

    def oracle(content: bytes) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for line in content.decode("utf-8-sig").split("\n"):
            if line.strip():
                question, *_, passage, relevance = (field.strip(" \r\v\f") for field in line.strip().split("\t"))
                assert re.fullmatch(r"[+-]?\d+(\.0*)?", relevance, re.ASCII)
                found.setdefault(question, {})[passage] = int(float(relevance))
        return found

    drill(tmp_path / "qrels.tsv", content, 7, read_qrels, oracle)


def test_run(tmp_path: Path) -> None:
    content = b"".join(f"q{n} Q0 p{n} 1 {n / 7!r} name\n".encode() for n in range(10))

    def oracle(content: bytes) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for question, _, passage, _, score, _ in split_columns(content):
            assert NUMBER.fullmatch(score)
            found.setdefault(question, {})[passage] = float(score)
        return found

    drill(tmp_path / "run.trec", content, 8, read_run, oracle)


def test_ids(tmp_path: Path) -> None:
    content = b"".join(f"p{n}\n".encode() for n in range(20))

    def oracle(content: bytes) -> set[str]:
        lines = content.decode("utf-8-sig").split("\n")
        return {line.removesuffix("\r") for line in lines if line.strip()}

    drill(tmp_path / "ids.txt", content, 9, read_ids, oracle)
