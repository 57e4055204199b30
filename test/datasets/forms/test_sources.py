"""Files of each kind give the same rows, forms are recognized by keys, and errors have a place."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard

from test.datasets.forms.helpers import convert, read_rows
from test.helpers import write_jsonl
from text.datasets.formats.values import FieldError
from text.datasets.forms.records import parse_record
from text.datasets.forms.sources import find_split_files, open_records, recognize_form
from text.errors import DataError, UsageError

RECORDS = [{"anchor": f'question "{i}"', "positive": f"text, {i}", "negative": f"other\n{i}"} for i in range(5)]
ROWS = [
    {
        "question": record["anchor"],
        "positive_ctxs": [{"text": record["positive"]}],
        "hard_negative_ctxs": [{"text": record["negative"]}],
    }
    for record in RECORDS
]


def write_table(path: Path, delimiter: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(RECORDS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path, row_group_size=2)


def write_saved_split(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write the files that ``datasets.Dataset.save_to_disk`` writes, in two parts."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(records)
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for name, part in zip(names, (table.slice(0, 3), table.slice(3)), strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "name",
    "rows.jsonl rows.jsonl.gz rows.jsonl.zst rows.json rows.csv rows.tsv rows.csv.gz rows.parquet".split(),
)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name.removesuffix(".gz").removesuffix(".zst")
    if ".jsonl" in name:
        write_jsonl(path, RECORDS)
    elif ".json" in name:
        path.write_text(json.dumps(RECORDS, indent=1))
    elif ".parquet" in name:
        write_parquet(path)
    else:
        write_table(path, "," if ".csv" in name else "\t")
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    if name.endswith(".zst"):
        (tmp_path / name).write_bytes(zstandard.compress(path.read_bytes()))
    [result] = convert(tmp_path / name, tmp_path / "out")
    assert read_rows(Path(result.path)) == ROWS
    assert result.counts == {"sentence-transformers rows read": 5}


def test_a_saved_data_set_gives_a_file_for_each_split(tmp_path: Path) -> None:
    write_saved_split(tmp_path / "set" / "train", RECORDS)
    write_saved_split(tmp_path / "set" / "validation", RECORDS[:4])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    train, valid = convert(tmp_path / "set", tmp_path / "out")
    assert read_rows(Path(train.path)) == ROWS and read_rows(Path(valid.path)) == ROWS[:4]
    assert Path(valid.path).name == "valid.jsonl"
    [single] = convert(tmp_path / "set" / "train", tmp_path / "single")
    assert read_rows(Path(single.path)) == ROWS


def test_the_same_data_set_as_datasets_saves_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "set")
    [result] = convert(tmp_path / "set", tmp_path / "out")
    assert read_rows(Path(result.path)) == ROWS


def test_files_are_found_by_their_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "nq-dev.jsonl", "nq-dev.jsonl.gz"):
        (tmp_path / name).touch()
    found = {split: [Path(path).name for path in paths] for split, paths in find_split_files(tmp_path).items()}
    assert found == {"train": sorted(path.name for path in tmp_path.glob("*.parquet")), "valid": ["nq-dev.jsonl"]}
    (tmp_path / "dev.csv").touch()
    with pytest.raises(UsageError, match=r"dev\.csv and .*nq-dev\.jsonl are both data of valid"):
        find_split_files(tmp_path)


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"question": "q", "positive_ctxs": []}, "dpr"),
        ({"question": "q", "positive_ids": []}, "dpr"),
        ({"question": "q", "ctxs": []}, "dpr-output"),
        ({"query": "q", "positive_passages": []}, "tevatron"),
        ({"query_text": "q", "positive_document_ids": []}, "tevatron"),
        ({"query": "q", "pos": [], "neg": []}, "flagembedding"),
        ({"sentence1": "q", "sentence2": "a", "score": 1}, "sentence-transformers"),
        ({"query": "q", "pos": ["a"], "positive_passages": None}, "flagembedding"),
        ({"anchor": "q", "positive": None}, "sentence-transformers"),
    ],
)
def test_the_form_is_recognized_by_its_keys(record, form: str) -> None:
    assert recognize_form(record, "a.jsonl:1") == form


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"query": "q", "pos": ["a"], "positive_passages": []}, ["tevatron", "flagembedding", "--form"]),
        ({"q": "q", "a": "a"}, ["found q, a", "--columns", "dpr: question", "tevatron: query"]),
    ],
)
def test_an_unclear_form_is_an_error_with_the_candidates(record, parts: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        recognize_form(record, "a.jsonl:1")
    assert str(error.value).startswith("a.jsonl:1: ") and all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", b'{"query": "q", "pos": ["a"]}\n{"query": "q", "pos": [1]}\n', "a.jsonl:2 (byte 29) pos[0]: "),
        ("a.jsonl", b'{"query": "q", "pos": ["a"]}\n{"query": "q", "pos": ["a"\n', "a.jsonl:2 (byte 56): "),
        ("a.jsonl", b'{"query": "q", "query": "r", "pos": ["a"]}\n', "a.jsonl:1 (byte 0) query: key stands twice"),
        (
            "a.jsonl",
            b'{"query": "q", "positive_passages": [{"text": ":", "text": "b"}]}\n',
            "a.jsonl:1 (byte 0) text: ",
        ),
        ("a.json", b'[\n{"query": "q",\n "pos": ["a", {}]}]', "a.json:3 (byte 31) pos[1]: "),
        ("a.jsonl", b"\n", "a.jsonl:1 (byte 0): no rows"),
        ("a.csv", b"anchor,positive\nq,a\nq\n", "a.csv:3: 1 columns"),
        ("a.csv", b"anchor,anchor\nq,a\n", "a.csv:1 anchor: key stands twice"),
        ("a.csv", b'anchor,positive\n"q"x,a\n', "a.csv:2: "),
        ("a.csv", b"anchor,positive\nq,\xff\n", "a.csv:2: not UTF-8"),
        ("a.csv", b"anchor,positive\n", "a.csv:2: no rows"),
        ("a.tsv", b"anchor\tpositive\tscore\nq\ta\tb\n", "a.tsv:2 score: "),
        ("a.parquet", b"PAR1 is no Parquet", "a.parquet:1: "),
        ("a.arrow", b"ARROW", "a.arrow:1: "),
    ],
)
def test_a_bad_file_is_an_error_with_its_place_and_nothing_is_written(name, content, place, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        convert(tmp_path / name, tmp_path / "out")
    assert str(error.value).startswith(f"{tmp_path}/{place}"), error.value
    assert not (tmp_path / "out").exists()


def test_a_truncated_parquet_file_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:40] + b"\xff" * 40 + content[80:])
    with pytest.raises(DataError, match=r"a\.parquet:\d+: "):
        convert(tmp_path / "a.parquet", tmp_path / "out")


def test_repeated_keys_are_found_despite_colons_in_texts() -> None:
    for text in ('":', '\\":', ": ", "::", '{"a":1}'):
        line = json.dumps({"a": text, "b": [{"c": text}, {"c": text, "d": {"e": text}}]})
        assert parse_record(line.encode(), Counter()) == json.loads(line)
        twice = line.replace('"d"', '"c"')
        with pytest.raises(FieldError):
            parse_record(twice.encode(), Counter())


def test_repaired_values_are_counted(tmp_path: Path) -> None:
    line = b'{"query": "q", "pos": ["a\\ud800"], "pos_scores": [NaN], "neg": []}'
    (tmp_path / "a.jsonl").write_bytes(line)
    counts = Counter[str]()
    [record] = open_records(str(tmp_path / "a.jsonl"), counts)
    assert record["pos"] == ["a\ufffd"] and record["pos_scores"] == [None] and len(counts) == 2


def test_an_unknown_ending_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("q\ta\n")
    with pytest.raises(UsageError, match="unknown kind of file"):
        open_records(str(tmp_path / "a.txt"), Counter())
