"""Data in several files: every part is read and counted, and a missing or damaged part is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test.datasets.forms.helpers import convert, read_rows
from test.datasets.forms.test_sources import RECORDS, ROWS, write_saved_split
from text.datasets.forms.kept_rows import find_kept_rows
from text.datasets.forms.sources import find_split_files
from text.errors import DataError, UsageError


def write_parts(folder: Path, parts: list[list[dict[str, Any]]]) -> Path:
    """Write files such as train-00000-of-00002.parquet."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir()
    table = pyarrow.Table.from_pylist(RECORDS)
    for i, records in enumerate(parts):
        part = pyarrow.Table.from_pylist(records, table.schema)
        parquet.write_table(part, folder / f"train-{i:05}-of-{len(parts):05}.parquet")
    return folder


def test_rows_of_all_parts_are_counted_and_a_part_may_be_empty(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "set", [RECORDS[:2], [], RECORDS[2:]])
    [file] = convert(source, tmp_path / "out")
    assert read_rows(tmp_path / "out/train.jsonl") == ROWS
    assert file.counts == {"sentence-transformers rows read": len(ROWS), "files without rows": 1}
    assert read_rows(Path(find_kept_rows(source, ["train"])["train"].path)) == ROWS
    with pytest.raises(DataError, match="no row of train"):
        convert(write_parts(tmp_path / "empty", [[], []]), tmp_path / "none")
    assert not list((tmp_path / "none").glob("*"))


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "set", [RECORDS[:2], RECORDS[2:], RECORDS[:1]])
    (source / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UsageError, match="3 files, but the folder holds 2"):
        find_split_files(source)


def test_a_saved_split_without_rows_is_left_out(tmp_path: Path) -> None:
    write_saved_split(tmp_path / "set/train", RECORDS)
    (tmp_path / "set/test").mkdir()
    (tmp_path / "set/test/state.json").write_text('{"_data_files": [], "_indices_data_files": null}')
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert list(find_split_files(tmp_path / "set")) == ["train"]
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["test"]}')
    for path in (tmp_path / "set", tmp_path / "set/test"):
        with pytest.raises(DataError, match="no rows"):
            find_split_files(path)
    (tmp_path / "set/dataset_dict.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"dataset_dict\.json"):
        find_split_files(tmp_path / "set")


def test_a_stream_that_is_cut_between_batches_is_an_error(tmp_path: Path) -> None:
    write_saved_split(tmp_path / "set", RECORDS)
    part = tmp_path / "set/data-00000-of-00002.arrow"
    part.write_bytes(part.read_bytes()[:-8])  # pyarrow reads such a stream without an error.
    with pytest.raises(DataError, match=f"{part.name}:4"):
        convert(tmp_path / "set", tmp_path / "out")


def test_a_column_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "set.parquet"
    parquet.write_table(pyarrow.table([["a"], ["b"], ["c"]], names=["anchor", "positive", "positive"]), path)
    with pytest.raises(DataError, match=r"set\.parquet:0 positive"):
        convert(path, tmp_path / "out")
