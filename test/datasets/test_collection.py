"""PassageCollection: every form of file, by row and by id, in memory or not."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.datasets.helpers import law, record, write_jsonl
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import DataError
from text.records import Passage

SHARED = Path(__file__).parents[3] / "shared" / "data"
TSV = 'id\ttext\ttitle\n1\t"The ""oak"" is a tree."\tOak\n2\tBread\t"To ""eat"""\n3\t"\tx'.replace('"\tx', '"a\tx\n')


def collection(path: Path, content: str | bytes, **options: Any) -> PassageCollection:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return PassageCollection(path, **options)


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        collection(path, content)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}:")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "passages"


@pytest.fixture(params=[False, True])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With and without sidecars."""
    if request.param:
        monkeypatch.setattr("text.datasets.formats.jsonl.INDEXED_BYTES", 0)
        monkeypatch.setattr("text.datasets.collection.INDEXED_BYTES", 0)
    return request.param


EXPECTED = [
    Passage("1", "Oak", 'The "oak" is a tree.'),
    Passage("2", 'To "eat"', "Bread"),
    Passage("3", "x", '"a'),  # a26: a lone quote is part of the text
]


@pytest.mark.usefixtures("kept")
def test_tsv_by_hand(path: Path) -> None:
    passages = collection(path, TSV)
    for found in (passages, pickle.loads(pickle.dumps(passages))):  # noqa: S301 what a DataLoader does
        assert (list(found), len(found), found[1], found[-1], found[0:2]) == (
            EXPECTED, 3, EXPECTED[1], EXPECTED[2], EXPECTED[:2],
        )  # fmt: skip
        assert [found.row(name) for name in "123"] == [0, 1, 2]
        assert [found.find(name) for name in "123"] == EXPECTED
        for name in ("0", "4", "01", "", "x", "²", "-1", "9" * 400):
            with pytest.raises(KeyError):
                found.find(name)
        with pytest.raises(IndexError):
            found[3]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("key", ["_id", "passage_id", "psg_id", "id", "docidx"])
def test_json_lines_by_hand(path: Path, key: str) -> None:
    rows = [{key: "b", "title": "t", "text": "x"}, {key: 7, "title": None, "text": "y"}, {key: "a", "text": None}]
    passages = collection(path, "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    assert list(passages) == [Passage("b", "t", "x"), Passage("7", "", "y"), Passage("a", "", "")]
    assert [passages.row(name) for name in ("a", "b", "7")] == [2, 0, 1]
    assert passages.counts == {"passages without text": 1}


@pytest.mark.usefixtures("kept")
def test_columns_stand_where_the_header_says(path: Path) -> None:
    assert list(collection(path, "title\tmore\tid\ttext\r\nT\tm\tx9\tsome text\r\n")) == [
        Passage("x9", "T", "some text")
    ]
    assert list(collection(path, "text\tid\nsome text\tx9")) == [Passage("x9", "", "some text")]


def test_what_was_found_is_kept(path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collection(path, TSV.replace("\n3", "\nthree"))
    if kept:
        monkeypatch.setattr("text.datasets.collection.PassageCollection._check", None)
        again = PassageCollection(path)
        assert (list(again), again.row("three"), again.counts) == (list(first), 2, first.counts)
    changed = path.read_text() + "4\tz\tz\n"
    monkeypatch.undo()
    assert collection(path, changed).row("4") == 3
    with pytest.raises(DataError, match="the file has changed since it was first read"):
        first.find("three")


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\t\0") | st.sampled_from('""\u2028\x85'), max_size=9
)


@law
@given(st.lists(st.tuples(texts.filter(bool), texts, texts), min_size=1, max_size=8, unique_by=lambda row: row[0]))
def test_tsv_equals_csv(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("id", "text", "title"), *rows])
    passages = collection(tmp_path / "p.tsv", file.getvalue())
    assert list(passages) == [Passage(name, title, text) for name, text, title in rows]
    assert [passages.row(name) for name, _, _ in rows] == list(range(len(rows)))


# Faults


def test_a9_not_utf_8(path: Path) -> None:
    assert refusal(path, b"id\ttext\n1\ta\xff\n").startswith("2 (byte 11): not UTF-8")
    assert refusal(path, b'{"id": "\xff", "text": "a"}\n').startswith("1 (byte 8): not UTF-8")


def test_a11_raw_nul(path: Path) -> None:
    assert refusal(path, b"id\ttext\n1\ta\0b\n").startswith("2 (byte 11): NUL byte")


@pytest.mark.usefixtures("kept")
def test_a15_blank_lines(path: Path) -> None:
    passages = collection(path, "id\ttext\n\nb\tx\n \n\na\ty\n\n")
    assert [passage.passage_id for passage in passages] == ["b", "a"]
    assert (len(passages), passages.row("a"), passages[1].text) == (2, 1, "y")
    assert passages.counts == {"blank lines": 4}


def test_a26_unbalanced_quote_takes_no_other_row(path: Path) -> None:
    passages = collection(path, 'id\ttext\ttitle\n1\t"open\tT\n2\tclose"\tU\n3\t"a"b"\tV\n')
    assert [passage.text for passage in passages] == ['"open', 'close"', '"a"b"']


def test_a27_long_field(path: Path) -> None:
    text = "x" * 1_000_000
    assert collection(path, f"id\ttext\n1\t{text}\n")[0].text == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\ttext\ttitle\n1\ta\n", "2 (byte 14) row: 2 columns; expected 3: id, text, title"),
        ('id\ttext\n1\t"a\tb"\n', "2 (byte 8) row: 3 columns; expected 2: id, text"),
        ("1\tsome text\ttitle\n", "1 (byte 0) header: 1, some text, title; expected id, text and title between tabs"),
        ("id\ttext\n\ta\n", "2 (byte 8) id: empty; expected the passage's id"),
    ],
)
def test_a28_columns(path: Path, content: str, message: str) -> None:
    assert refusal(path, content).startswith(message)


@pytest.mark.parametrize("value", [True, 1.0, [1], {"a": 1}])
def test_b10_id_of_the_wrong_type(path: Path, value: Any) -> None:
    message = refusal(path, json.dumps({"_id": value, "text": "a"}))
    assert message == "1 (byte 0) _id: neither string nor integer; expected the passage's id"


def test_b10_ids_are_compared_as_they_are_written(path: Path) -> None:
    passages = collection(path, "id\ttext\n007\ta\n7\tb\n")
    assert (passages.row("007"), passages.row("7")) == (0, 1)


@pytest.mark.usefixtures("kept")
def test_b11_id_absent(path: Path) -> None:
    content = '{"text": "a"}\n\n{"text": "b"}\n'
    assert refusal(path, content).startswith("1 (byte 0) _id: missing; expected one of _id, passage_id")
    passages = collection(path, content, positional_ids=True)
    assert ([passage.passage_id for passage in passages], passages.find("1").text) == (["0", "1"], "b")


@pytest.mark.parametrize("field", ["title", "text"])
def test_b8_no_string(path: Path, field: str) -> None:
    message = refusal(path, json.dumps({"_id": "a", "title": "b", "text": "c", field: ["d"]}))
    assert message == f"1 (byte 0) {field}: not a string; expected a string or null"


@pytest.mark.usefixtures("kept")
def test_b12_duplicate_ids(path: Path) -> None:
    passages = collection(path, "id\ttext\nx\ta\ny\tb\nx\ta\nx\ta\n")
    assert (passages.counts, passages.row("x"), len(passages)) == ({"duplicate passages": 2}, 0, 4)
    message = refusal(path, "id\ttext\nx\ta\ny\tb\nx\tc\n")
    assert message == '4 (byte 16) id: "x" also stands in line 2 with another text; expected one passage for each id'


@pytest.mark.usefixtures("kept")
def test_equal_hashes_of_different_ids(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text.datasets.collection.text_key", lambda text: 7)
    passages = collection(path, "id\ttext\nb\tx\na\ty\nc\tz\na\ty\n")
    assert [passages.row(name) for name in "abc"] == [1, 0, 2]
    assert passages.counts == {"duplicate passages": 1}
    assert "also stands in line 3" in refusal(path, "id\ttext\nb\tx\na\ty\nc\tz\na\tw\n")


# Compact rows


def test_compact_rows_give_the_batches_of_full_ones(tmp_path: Path) -> None:
    pools = {
        "positive_ctxs": "positive_ids",
        "hard_negative_ctxs": "hard_negative_ids",
        "negative_ctxs": "negative_ids",
    }
    rows = [record(f"q{i}", positives=2, hard=5, other=3) for i in range(7)]
    contexts = [context for row in rows for pool in pools for context in row[pool]]
    rows[0]["hard_negative_ctxs"].append(rows[0]["positive_ctxs"][1])  # left out of both
    compact = [
        {"question": row["question"], "answers": row["answers"]}
        | {ids: [context["passage_id"] for context in row[pool]] for pool, ids in pools.items()}
        for row in rows
    ]
    write_jsonl(tmp_path / "corpus.jsonl", contexts)
    passages = PassageCollection(tmp_path / "corpus.jsonl")
    options: dict[str, Any] = {"train": True, "num_hard_negatives": 3, "num_other_negatives": 1}
    full = DPRDataPipe(write_jsonl(tmp_path / "full.jsonl", rows), 3, **options)
    brief = DPRDataPipe(write_jsonl(tmp_path / "compact.jsonl", compact), 3, passages=passages, **options)
    for epoch in range(3):
        for pipe in (full, brief):
            pipe.set_epoch(epoch)
        assert list(brief) == list(full)
    with pytest.raises(DataError, match="positive_ids: ids of passages; expected the collection that they are in, too"):
        DPRDataPipe(tmp_path / "compact.jsonl", 3)


# Files that others made


def there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there: it belongs to others and is not in the repository")
    return path


def test_real_tsv() -> None:
    path = there(SHARED / "squad_w100" / "passages.tsv")
    with path.open(newline="", encoding="utf-8") as file:
        expected = [Passage(name, title, text) for name, text, title in csv.reader(file, delimiter="\t")][1:]
    passages = PassageCollection(path)
    assert list(passages) == expected
    assert all(passages.find(passage.passage_id) == passage for passage in expected[::37])


@pytest.mark.parametrize("name", ["cosqa", "cranfield", "vaswani_npl", "xquad/de"])
def test_real_beir(name: str) -> None:
    path = there(SHARED / "beir" / name / "corpus.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    passages = PassageCollection(path)
    assert list(passages) == [Passage(row["_id"], row["title"], row["text"]) for row in rows]
    assert all(passages.find(row["_id"]).text == row["text"] for row in rows[::37])
    if name == "cranfield":
        assert passages.counts == {"passages without text": 2}


def test_real_compact_rows_are_those_of_the_full_ones() -> None:
    folder = there(SHARED / "squad_w100")
    compact = DPRDataPipe(folder / "dev.ids.jsonl", 8, passages=PassageCollection(folder / "passages.tsv"))
    assert compact.num_rows == 955
    first = next(iter(compact))[0]
    assert first.answers[0].lower() in first.positives[0].text.lower()
