"""PassageCollection: every form of file, by row and by id, in memory or not."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import Place, law, parse_place, record, shared_file, write_jsonl
from text.artifacts import read_facts
from text.datasets import DPRDataPipe, PassageCollection
from text.datasets.formats.array_files import write_arrays
from text.errors import DataError
from text.records import Passage

TSV = 'id\ttext\ttitle\n1\t"The ""oak"" is a tree."\tOak\n2\tBread\t"To ""eat"""\n3\t"\tx'.replace('"\tx', '"a\tx\n')


def write_collection(path: Path, content: str | bytes, **options: Any) -> PassageCollection:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return PassageCollection(path, **options)


def get_error_place(path: Path, content: str | bytes) -> Place:
    """Return the place in the error that a collection with this content raises."""
    with pytest.raises(DataError) as caught:
        write_collection(path, content)
    return parse_place(caught.value, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "passages"


@pytest.fixture(params=[False, True])
def has_sidecars(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether small files get sidecars, too: first False, then True."""
    if request.param:
        monkeypatch.setattr("text.datasets.formats.jsonl.INDEXED_BYTES", 0)
        monkeypatch.setattr("text.datasets.collection.INDEXED_BYTES", 0)
    return request.param


EXPECTED = [
    Passage("1", "Oak", 'The "oak" is a tree.'),
    Passage("2", 'To "eat"', "Bread"),
    Passage("3", "x", '"a'),  # a lone quote is part of the text
]


@pytest.mark.usefixtures("has_sidecars")
def test_tsv_by_hand(path: Path) -> None:
    passages = write_collection(path, TSV)
    for found in (passages, pickle.loads(pickle.dumps(passages))):  # noqa: S301 A DataLoader pickles its data set.
        assert (list(found), len(found), found[1], found[-1], found[0:2]) == (
            EXPECTED, 3, EXPECTED[1], EXPECTED[2], EXPECTED[:2],
        )  # fmt: skip
        assert [found.find_row(name) for name in "123"] == [0, 1, 2]
        assert [found.find(name) for name in "123"] == EXPECTED
        for name in ("0", "4", "01", "", "x", "²", "-1", "9" * 400):
            with pytest.raises(KeyError):
                found.find(name)
        with pytest.raises(IndexError):
            found[3]


@pytest.mark.usefixtures("has_sidecars")
@pytest.mark.parametrize("key", ["_id", "passage_id", "psg_id", "id", "docidx"])
def test_json_lines_by_hand(path: Path, key: str) -> None:
    rows = [{key: "b", "title": "t", "text": "x"}, {key: 7, "title": None, "text": "y"}, {key: "a", "text": None}]
    passages = write_collection(path, "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    assert list(passages) == [Passage("b", "t", "x"), Passage("7", "", "y"), Passage("a", "", "")]
    assert [passages.find_row(name) for name in ("a", "b", "7")] == [2, 0, 1]
    assert passages.counts == {"passages without text": 1}


@pytest.mark.usefixtures("has_sidecars")
def test_header_gives_the_order_of_the_columns(path: Path) -> None:
    assert list(write_collection(path, "title\tmore\tid\ttext\r\nT\tm\tx9\tsome text\r\n")) == [
        Passage("x9", "T", "some text")
    ]
    assert list(write_collection(path, "text\tid\nsome text\tx9")) == [Passage("x9", "", "some text")]


def test_findings_are_kept_until_the_file_changes(
    path: Path, has_sidecars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_collection(path, TSV.replace("\n3", "\nthree"))
    if has_sidecars:
        monkeypatch.setattr("text.datasets.collection.PassageCollection._check", None)
        again = PassageCollection(path)
        assert (list(again), again.find_row("three"), again.counts) == (list(first), 2, first.counts)
    changed = path.read_text() + "4\tz\tz\n"
    monkeypatch.undo()
    assert write_collection(path, changed).find_row("4") == 3
    with pytest.raises(DataError, match=re.escape(str(path))):
        first.find("three")


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\t\0") | st.sampled_from('""\u2028\x85'), max_size=9
)


@law
@given(st.lists(st.tuples(texts.filter(bool), texts, texts), min_size=1, max_size=8, unique_by=lambda row: row[0]))
def test_tsv_equals_csv(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("id", "text", "title"), *rows])
    passages = write_collection(tmp_path / "p.tsv", file.getvalue())
    assert list(passages) == [Passage(name, title, text) for name, text, title in rows]
    assert [passages.find_row(name) for name, _, _ in rows] == list(range(len(rows)))


# Faults


def test_bytes_that_are_not_utf_8_are_refused(path: Path) -> None:
    assert get_error_place(path, b"id\ttext\n1\ta\xff\n") == (2, 11, "")
    assert get_error_place(path, b'{"id": "\xff", "text": "a"}\n') == (1, 8, "")


def test_raw_nul_is_refused(path: Path) -> None:
    assert get_error_place(path, b"id\ttext\n1\ta\0b\n") == (2, 11, "")


@pytest.mark.usefixtures("has_sidecars")
def test_blank_lines_are_skipped_and_counted(path: Path) -> None:
    passages = write_collection(path, "id\ttext\n\nb\tx\n \n\na\ty\n\n")
    assert [passage.passage_id for passage in passages] == ["b", "a"]
    assert (len(passages), passages.find_row("a"), passages[1].text) == (2, 1, "y")
    assert passages.counts == {"blank lines": 4}


def test_unbalanced_quote_ends_at_the_end_of_its_line(path: Path) -> None:
    passages = write_collection(path, 'id\ttext\ttitle\n1\t"open\tT\n2\tclose"\tU\n3\t"a"b"\tV\n')
    assert [passage.text for passage in passages] == ['"open', 'close"', '"a"b"']


def test_field_of_a_megabyte_is_read(path: Path) -> None:
    text = "x" * 1_000_000
    assert write_collection(path, f"id\ttext\n1\t{text}\n")[0].text == text


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("id\ttext\ttitle\n1\ta\n", (2, 14, "row")),
        ('id\ttext\n1\t"a\tb"\n', (2, 8, "row")),
        ("1\tsome text\ttitle\n", (1, 0, "header")),
        ("id\ttext\n\ta\n", (2, 8, "id")),
    ],
)
def test_wrong_columns_are_refused(path: Path, content: str, place: tuple[int, int, str]) -> None:
    assert get_error_place(path, content) == place


def test_error_names_a_blank_header(path: Path) -> None:
    with pytest.raises(DataError, match="header: found a blank line"):
        write_collection(path, "\n\n\n")


@pytest.mark.parametrize("value", [True, 1.5, [1], {"a": 1}, 10**400, -(2**63) - 1])
def test_id_of_the_wrong_type_is_refused(path: Path, value: Any) -> None:
    assert get_error_place(path, json.dumps({"_id": value, "text": "a"})) == (1, 0, "_id")


def test_ids_are_compared_as_they_are_written(path: Path) -> None:
    passages = write_collection(path, "id\ttext\n007\ta\n7\tb\n")
    assert (passages.find_row("007"), passages.find_row("7")) == (0, 1)


def test_missing_id_is_refused(path: Path) -> None:
    assert get_error_place(path, '{"text": "a"}\n\n{"text": "b"}\n') == (1, 0, "_id")


@pytest.mark.usefixtures("has_sidecars")
def test_unambiguous_values_are_repaired_and_counted(path: Path) -> None:
    rows = ['{"_id": 12.0, "title": 1984, "text": "a", "more": NaN}', '{"_id": 7, "text": "b\\ud800"}']
    rows += ['{"_id": "", "id": "8", "text": "c"}']
    passages = write_collection(path, "\n".join(rows))
    assert list(passages) == [Passage("12", "1984", "a"), Passage("7", "", "b\ufffd"), Passage("8", "", "c")]
    assert sorted(passages.counts.values()) == [1, 1, 1, 1]


@pytest.mark.usefixtures("has_sidecars")
@pytest.mark.parametrize("again", ["text", "te\\u0078t"])
def test_repeated_key_is_refused(path: Path, again: str) -> None:
    content = '{"_id": "1", "text": "a"}\n{"_id": "2", "text": "b", "' + again + '": "c"}\n'
    assert get_error_place(path, content) == (2, 26, "text")


@pytest.mark.usefixtures("has_sidecars")
def test_text_under_the_key_of_pyserini_is_read(path: Path) -> None:
    rows = ['{"id": "1", "contents": "An oak\\nis a tree."}', '{"id": "2", "text": null, "contents": "b"}']
    passages = write_collection(path, "\n".join(rows))
    assert list(passages) == [Passage("1", "", "An oak\nis a tree."), Passage("2", "", "b")]
    assert not passages.counts


@pytest.mark.usefixtures("has_sidecars")
@pytest.mark.parametrize("key", ["content", "body", "passage", "Text"])
def test_text_under_another_name_is_refused_with_the_keys(path: Path, key: str) -> None:
    content = '{"_id": "1", "text": ""}\n' + json.dumps({"_id": "2", "title": "Oak", key: "An oak."})
    assert get_error_place(path, content) == (2, 25, "text")
    with pytest.raises(DataError, match=f"_id, title, {key}"):
        write_collection(path, content)


@pytest.mark.usefixtures("has_sidecars")
def test_null_beside_a_text_under_another_name_is_refused(path: Path) -> None:
    record = {"_id": "2", "title": "Oak tree", "text": None, "url": "https://oak", "views": 3, "content": "An oak."}
    assert get_error_place(path, '{"_id": "1", "text": "a"}\n' + json.dumps(record)) == (2, 26, "text")
    del record["content"]
    assert list(write_collection(path, json.dumps(record))) == [Passage("2", "Oak tree", "")]
    assert write_collection(path, json.dumps(record | {"text": "", "note": "no text yet"})).counts.total() == 1


@pytest.mark.parametrize("value", ["Oak (tree)", "b\nc", "a%20b", "\u2028"])
def test_ids_may_hold_white_space(path: Path, value: str) -> None:
    assert write_collection(path, json.dumps({"_id": value, "text": "a"})).find(value).text == "a"


@pytest.mark.parametrize("field", ["title", "text", "contents"])
def test_field_that_is_not_a_string_is_refused(path: Path, field: str) -> None:
    record = {"_id": "a", "title": "b", **({} if field == "contents" else {"text": "c"}), field: ["d"]}
    assert get_error_place(path, json.dumps(record)) == (1, 0, field)


@pytest.mark.usefixtures("has_sidecars")
def test_repeated_passage_is_counted_and_id_of_two_texts_is_refused(path: Path) -> None:
    passages = write_collection(path, "id\ttext\nx\ta\ny\tb\nx\ta\nx\ta\n")
    assert (passages.counts, passages.find_row("x"), len(passages)) == ({"duplicate passages": 2}, 0, 4)
    with pytest.raises(DataError, match=r'passages:4 \(byte 16\) id: "x" .*\bline 2\b'):
        write_collection(path, "id\ttext\nx\ta\ny\tb\nx\tc\n")


@pytest.mark.usefixtures("has_sidecars")
def test_different_ids_with_equal_hashes_are_told_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text.datasets.collection.hash_text", lambda text: 7)
    passages = write_collection(path, "id\ttext\nb\tx\na\ty\nc\tz\na\ty\n")
    assert [passages.find_row(name) for name in "abc"] == [1, 0, 2]
    assert passages.counts == {"duplicate passages": 1}
    with pytest.raises(DataError, match=r'passages:5 \(byte \d+\) id: "a" .*\bline 3\b'):
        write_collection(path, "id\ttext\nb\tx\na\ty\nc\tz\na\tw\n")


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
    with pytest.raises(DataError, match=r"compact\.jsonl:1 \(byte 0\) positive_ids: "):
        DPRDataPipe(tmp_path / "compact.jsonl", 3)


# Files from other projects


def test_real_tsv() -> None:
    path = shared_file("squad_w100/passages.tsv")
    with path.open(newline="", encoding="utf-8") as file:
        expected = [Passage(name, title, text) for name, text, title in csv.reader(file, delimiter="\t")][1:]
    passages = PassageCollection(path)
    assert list(passages) == expected
    assert all(passages.find(passage.passage_id) == passage for passage in expected[::37])


@pytest.mark.parametrize("name", ["cosqa", "cranfield", "vaswani_npl", "xquad/de"])
def test_real_beir(name: str) -> None:
    path = shared_file(f"beir/{name}/corpus.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    passages = PassageCollection(path)
    assert list(passages) == [Passage(row["_id"], row["title"], row["text"]) for row in rows]
    assert all(passages.find(row["_id"]).text == row["text"] for row in rows[::37])
    if name == "cranfield":
        assert passages.counts == {"passages without text": 2}


def test_real_compact_rows_have_passages_with_their_answers() -> None:
    folder = shared_file("squad_w100")
    compact = DPRDataPipe(folder / "dev.ids.jsonl", 8, passages=PassageCollection(folder / "passages.tsv"))
    assert compact.num_rows == 955
    first = next(iter(compact))[0]
    assert first.answers[0].lower() in first.positives[0].text.lower()


def test_collection_with_many_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    rows = [f'{{"_id": "p{n}", "text": "oak {n}"}}' + "\n" * (1 + n % 4 * 50) for n in range(100)]
    path.write_text("".join(rows))
    collection = PassageCollection(path)
    assert [each.passage_id for each in collection] == [f"p{n}" for n in range(100)]
    line = 1 + "".join(rows[:77]).count("\n")
    assert collection.find("p77").text == "oak 77" and f":{line} " in collection.describe_place("p77")


def test_sidecar_with_wrong_ids_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("formats.jsonl", "collection"):
        monkeypatch.setattr(f"text.datasets.{module}.INDEXED_BYTES", 0)
    path = tmp_path / "c.jsonl"
    path.write_text("".join(f'{{"_id": "p{n}", "text": "oak {n}"}}\n' for n in range(1500)))
    expected = [PassageCollection(path).find(f"p{n}").text for n in range(1500)]
    [target] = [
        each for each in (tmp_path / ".dpr-text").iterdir() if ".passages" in each.name and each.suffix != ".json"
    ]
    content = np.frombuffer(b'{"first_id": null, "counts": {}, "sha256": ""}', np.uint8)
    write_arrays(target, [content, np.zeros(0, np.int64), np.arange(1500), np.arange(1500) + 1])
    facts = read_facts(target)._asdict()
    Path(f"{target}.facts.json").write_text(json.dumps({"name": target.name, "facts": facts}))
    again = PassageCollection(path)
    assert [again.find(f"p{n}").text for n in range(1500)] == expected
    with pytest.raises(KeyError):
        again.find("p1500")
