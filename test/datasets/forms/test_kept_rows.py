"""Training reads tables and saved data sets directly: the same rows as ``dpr-text convert``, converted once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.datasets.forms.helpers import convert, read_rows
from test.datasets.forms.test_sources import RECORDS, ROWS, write_saved_split, write_table
from test.helpers import list_questions, write_jsonl
from text.datasets import describe_files, find_splits, open_splits
from text.errors import DataError, UsageError


def test_a_table_is_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.csv"
    write_table(path, ",")
    files = find_splits(str(path))
    assert read_rows(Path(*files["train"])) == ROWS
    assert capsys.readouterr().err == f"{path}: converted to 5 rows; 5 sentence-transformers rows read\n"
    assert find_splits(str(path)) == files == find_splits(None, train_files=[str(path)])
    assert capsys.readouterr().err == ""
    assert describe_files(files, data_path=str(path))[0] == f"train data: {path}, converted to rows"


def test_batches_are_those_of_the_converted_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "pairs.tsv", "\t")
    [result] = convert(tmp_path / "pairs.tsv", tmp_path / "out")
    direct = open_splits(find_splits(str(tmp_path / "pairs.tsv")), batch_size=2, seed=3)["train"]
    converted = open_splits(find_splits(None, train_files=[result.path]), batch_size=2, seed=3)["train"]
    for epoch in range(2):
        direct.set_epoch(epoch)
        converted.set_epoch(epoch)
        assert list(direct) == list(converted)
    direct.set_epoch(1, start_row=2)
    assert list_questions(direct) == list_questions(converted)[1:]
    assert direct.fingerprint == converted.fingerprint


def test_a_saved_data_set_has_stages(tmp_path: Path) -> None:
    for name, num in (("train", 5), ("validation", 4)):
        write_saved_split(tmp_path / "set" / name, RECORDS[:num])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    files = find_splits(str(tmp_path / "set"))
    assert {stage: len(read_rows(Path(*paths))) for stage, paths in files.items()} == {"train": 5, "valid": 4}
    only = find_splits(None, train_files=[str(tmp_path / "set" / "validation")])
    assert only["train"] == files["valid"]


def test_a_changed_part_is_converted_again(tmp_path: Path) -> None:
    for i in range(2):
        write_table(tmp_path / f"train-{i}.csv", ",")
    assert len(read_rows(Path(*find_splits(str(tmp_path))["train"]))) == 10
    (tmp_path / "train-1.csv").write_text("anchor,positive\nq,a\n")
    assert len(read_rows(Path(*find_splits(str(tmp_path))["train"]))) == 6


def test_tables_beside_rows_are_not_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "train.qa.csv").write_text("who ate the oak\t['beetle']\n")
    (tmp_path / "test.qa.csv").write_text("who ate the oak\t['beetle']\n")
    assert find_splits(str(tmp_path)) == {"train": [str(tmp_path / "train.jsonl")]}


def test_an_unclear_or_bad_table_is_an_error_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,reply\nq,a\n")
    with pytest.raises(UsageError, match="--columns"):
        find_splits(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("query,positive,score\nq,a,0.5\n")
    with pytest.raises(DataError, match=r"a\.csv:2 score: .*min_relevance"):
        find_splits(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("query,positive\nq,\n")
    with pytest.raises(DataError, match="no row can be used"):
        find_splits(str(tmp_path / "a.csv"))
    assert not list(tmp_path.glob(".dpr-text/*"))


def test_a_folder_saved_with_indices_is_refused(tmp_path: Path) -> None:
    write_saved_split(tmp_path / "set", RECORDS)
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    (tmp_path / "set" / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(UsageError, match="flatten_indices"):
        find_splits(str(tmp_path / "set"))
