"""Tests of DPRFile: findings from a sidecar equal those of a new check."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from test.helpers import context, drop_fields, record, records, write_jsonl
from text.artifacts import read_facts
from text.datasets import DPRDataPipe
from text.datasets.dpr_file import DPRFile
from text.datasets.formats.array_files import write_arrays
from text.datasets.formats.jsonl import JsonlFile
from text.datasets.formats.values import split_reason
from text.errors import DataError


@pytest.fixture
def mixed_rows(tmp_path: Path) -> Path:
    """Write rows of all kinds: usable, blank, without question or positive, with few negatives."""
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            record("a", hard=3),
            record(" "),
            record("b", positives=0),
            drop_fields(record("c"), "negative_ctxs"),
            record("d", hard_negative_ctxs=[context("d+0"), {"text": ""}, context("x")]),
        ],
    )
    path.write_text("\ufeff" + path.read_text() + "\n")
    return path


@pytest.fixture
def small_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write sidecars for small files, too."""
    monkeypatch.setattr("text.datasets.formats.jsonl.INDEXED_BYTES", 0)
    monkeypatch.setattr("text.datasets.dpr_file.INDEXED_BYTES", 0)


def test_findings_by_hand(mixed_rows: Path) -> None:
    findings = DPRFile(mixed_rows).findings
    assert findings.num_rows == 6
    assert findings.sha256 == hashlib.sha256(mixed_rows.read_bytes()).hexdigest()
    assert findings.unusable == {1: "blank question", 2: "no positive_ctxs", 5: "blank line"}
    assert findings.pool_sizes == {"hard_negatives": {3: 1, 2: 1, 1: 1}, "other_negatives": {2: 2, 0: 1}}
    assert findings.counts == {
        "rows without negative_ctxs": 1,
        "hard_negative_ctxs that are positives, left out": 1,
        "hard_negative_ctxs without text, left out": 1,
    }
    assert DPRFile(mixed_rows).find_usable_rows().tolist() == [0, 3, 4]


@pytest.mark.usefixtures("small_sidecars")
def test_findings_are_kept(mixed_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DPRFile(mixed_rows)
    for name in ("text.datasets.dpr_file.DPRFile._check", "text.datasets.formats.jsonl.JsonlFile._scan"):
        monkeypatch.setattr(name, None)
    again = DPRFile(mixed_rows)
    assert again.findings == first.findings
    assert [again.rows.get_offset(row) for row in range(7)] == [first.rows.get_offset(row) for row in range(7)]


@pytest.mark.usefixtures("small_sidecars")
def test_kept_findings_give_the_same_pipe(mixed_rows: Path) -> None:
    options = {"train": True, "max_skipped": 0.9, "num_hard_negatives": 2}
    first, again = (DPRDataPipe(mixed_rows, 2, **options) for _ in range(2))
    assert list(first) == list(again)
    for name in ("counts", "skipped", "num_rows", "has_negatives", "fingerprint"):
        assert getattr(first, name) == getattr(again, name)
    assert first.counts["rows with fewer hard_negative_ctxs than asked for"] == 1
    with pytest.raises(DataError, match=r"rows\.jsonl:2 \(byte \d+\) question: "):
        DPRDataPipe(mixed_rows, 2)


@pytest.mark.usefixtures("small_sidecars")
def test_changed_file_is_checked_again(mixed_rows: Path) -> None:
    DPRFile(mixed_rows)
    write_jsonl(mixed_rows, [*records(3), record(question=True)])
    assert DPRFile(mixed_rows).findings.unusable.keys() == {3}


@pytest.mark.usefixtures("small_sidecars")
def test_missing_folder_for_sidecars_is_no_error(mixed_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert DPRFile(mixed_rows).findings.num_rows == len(JsonlFile(mixed_rows)) == 6
    assert list(mixed_rows.parent.iterdir()) == [mixed_rows]


@pytest.mark.usefixtures("small_sidecars")
def test_index_takes_eight_bytes_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" * 10_000)
    JsonlFile(path)
    [index, _] = sorted((tmp_path / ".dpr-text").iterdir())
    assert 80_000 < index.stat().st_size < 80_000 + 200


def test_faulty_field_makes_its_row_unusable(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [record("a"), record("b", hard_negative_ctxs=[context("c"), 7])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"question": "q", "question": "r"}\n')
    findings = DPRFile(path).findings
    fields = {row: split_reason(reason).field for row, reason in findings.unusable.items()}
    assert fields == {1: "hard_negative_ctxs[1]", 2: "question"}


@pytest.mark.usefixtures("small_sidecars")
def test_repaired_rows_are_counted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(record(f"q{i}", n=0)) for i in range(4)]
    lines[1] = lines[1].replace('"n": 0', '"n": NaN')
    lines[2] = lines[2].replace('"n": 0', '"n": "\\ud800"').replace("q2", "\\ud83d")
    path.write_text("\n".join(lines))
    for _ in range(2):
        pipe = DPRDataPipe(path, 2)
        assert pipe.counts == {
            "rows with NaN or infinite numbers, read as missing": 1,
            "rows with lone surrogates, read as U+FFFD": 1,
        }
        assert [example.question for batch in pipe for example in batch] == ["q0", "q1", "\ufffd", "q3"]


def test_compact_row_without_a_collection_is_refused_at_once(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [record("a"), {"question": "q", "positive_ids": ["1"]}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2 \(byte \d+\) positive_ids: "):
        DPRFile(path)


def test_sidecar_of_another_file_is_rebuilt(
    mixed_rows: Path, small_sidecars: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The content of a sidecar is checked, because its hash can be forged."""
    first = DPRFile(mixed_rows)
    for kind, arrays in (("rows", [np.arange(7)]), ("checked-7", [np.zeros(0, np.int64)] * 12)):
        [target] = [path for path in (mixed_rows.parent / ".dpr-text").iterdir() if path.name.endswith(f".{kind}")]
        write_arrays(target, arrays)
        facts = read_facts(target)._asdict()
        Path(f"{target}.facts.json").write_text(json.dumps({"name": target.name, "facts": facts}))
        again = DPRFile(mixed_rows)
        assert again.findings == first.findings
        assert [again.rows.get_offset(row) for row in range(7)] == [first.rows.get_offset(row) for row in range(7)]
        assert str(target) in capsys.readouterr().err


def test_index_that_is_truncated_while_in_use_is_an_error(tmp_path: Path, small_sidecars: None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" * 10_000)
    rows = JsonlFile(path)
    [index] = [path for path in (tmp_path / ".dpr-text").iterdir() if path.name.endswith(".rows")]
    os.truncate(index, 100)
    with pytest.raises(DataError, match=str(index)), rows.open() as reader:
        reader.read(9_000)


def test_blank_lines_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" * 200_000 + json.dumps(record("q")).encode())
    tracemalloc.start()
    pipe = DPRDataPipe(path, 1)
    assert tracemalloc.get_traced_memory()[1] < 200_000 * 80
    tracemalloc.stop()
    assert pipe.counts["blank lines, left out"] == 200_000 and pipe.skipped == []
