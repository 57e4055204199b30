"""Values that a conversion once lost without an error: late columns of negatives, ids and answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.datasets.forms.helpers import convert, read_rows
from test.helpers import write_jsonl
from text.errors import DataError


def test_columns_of_negatives_that_only_later_rows_have_are_read(tmp_path: Path) -> None:
    records = [
        {"anchor": "a", "positive": "p"},
        {"anchor": "b", "positive": "p", "negative_1": "x", "negative_2": "y"},
        {"anchor": "c", "positive": "p", "negative_2": "z"},
    ]
    source = write_jsonl(tmp_path / "rows.jsonl", records)
    [file] = convert(source, tmp_path / "out")
    negatives = [[each["text"] for each in row["hard_negative_ctxs"]] for row in read_rows(Path(file.path))]
    assert negatives == [[], ["x", "y"], ["z"]]
    assert file.counts == {"sentence-transformers rows read": 3}
    # With --columns, only the named columns are negatives.
    [file] = convert(source, tmp_path / "named", columns={"question": "anchor", "positive": "positive"})
    assert not any(row["hard_negative_ctxs"] for row in read_rows(Path(file.path)))


def test_an_id_of_a_passage_is_not_replaced_by_another_field(tmp_path: Path) -> None:
    row = {"question": "a", "positive_ctxs": [{"id": "1", "docid": "D9", "text": "t"}]}
    with pytest.raises(DataError, match="docid"):
        convert(write_jsonl(tmp_path / "rows.jsonl", [row]), tmp_path / "out", to="tevatron")


@pytest.mark.parametrize("answers", ["['x', 'y']", ["['x', 'y']"]])
def test_a_printed_list_of_answers_is_an_error(answers: object, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [{"question": "a", "positive": "p", "answers": answers}])
    with pytest.raises(DataError, match=r"rows.jsonl:1 .* answers"):
        convert(source, tmp_path / "out")


def test_a_score_that_is_no_finite_number_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"sentence1": ["a"], "sentence2": ["b"], "score": [float("nan")]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="score: nan"):
        convert(tmp_path / "pairs.parquet", tmp_path / "out")
