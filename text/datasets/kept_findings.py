"""What the check of a file in the DPR format found, and the sidecar in which it is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text.artifacts import check_type, parse_json
from text.datasets.formats.array_files import ArrayFile, Column, are_within, check_ascending, is_ascending, write_arrays
from text.datasets.row_index import RowIndex
from text.datasets.unusable import UnusableRows
from text.errors import ArtifactError

_DTYPES = {
    "json": np.uint8,
    "unusable_rows": np.int64,
    "unusable_codes": np.int32,
    "wordless": np.int64,
    "ids": np.int64,
    "contents": np.uint32,
    "has_title": np.uint8,
    "rows": np.int32,
    "questions": np.int64,
    "positives": np.int64,
    "positive_ends": np.int64,
    "question_ids": np.int64,
}


class Findings(NamedTuple):
    """Findings of the check of a file."""

    num_rows: int
    """Rows of the file, usable or not."""
    sha256: str
    """Hash of the file's content, unpacked if it is compressed."""
    unusable: UnusableRows
    """Rows that no batch can hold, and why: a reason, or the field and its problem (``FieldError``)."""
    counts: dict[str, int]
    """Passages left out and pools not there, by reason."""
    pool_sizes: dict[str, dict[int, int]]
    """By name of the pool of negatives: how many rows have how many that can be used."""
    wordless: list[int]
    """Usable rows with a question, or a passage whose text, has no letter or digit. There may be no token either."""


class _Kept(NamedTuple):
    """Findings as JSON, without numbers of rows. JSON has no numbers as keys."""

    num_rows: int
    sha256: str
    reasons: list[str]
    counts: dict[str, int]
    pool_sizes: dict[str, dict[str, int]]


def save_findings(path: Path, findings: Findings, index: RowIndex) -> None:
    """Write findings and the index of the rows to a file."""
    kept = findings._asdict() | {"reasons": findings.unusable.reasons}
    content = json.dumps({name: kept[name] for name in _Kept._fields}, ensure_ascii=False).encode()
    rows = [findings.unusable.rows, findings.unusable.codes, np.array(findings.wordless, np.int64)]
    flat = index._replace(positives=index.positives.reshape(-1))
    write_arrays(path, [np.frombuffer(content, np.uint8), *rows, *flat])


def load_findings(path: Path, num_rows: int) -> tuple[Findings, RowIndex]:
    """Read what ``save_findings`` wrote.

    Raises:
        ArtifactError: The file does not fit a file of this number of rows.
    """
    columns = dict(zip(_DTYPES, ArrayFile(path, list(_DTYPES.values())).columns, strict=True))
    arrays = {name: column.array() for name, column in columns.items()}
    kept = check_type(parse_json(arrays["json"].tobytes(), path), _Kept, path)
    if kept.num_rows != num_rows or not _fits(kept, columns):
        raise ArtifactError(f"{path}: does not fit its data. Remove it.")
    check_ascending(columns["positive_ends"], 0, len(arrays["positives"]) // 2, path)
    unusable = UnusableRows(arrays["unusable_rows"], arrays["unusable_codes"], kept.reasons)
    sizes = {name: {int(size): count for size, count in each.items()} for name, each in kept.pool_sizes.items()}
    index = RowIndex(*(arrays[name] for name in RowIndex._fields))
    index = index._replace(has_title=index.has_title != 0, positives=index.positives.reshape(-1, 2))
    return Findings(num_rows, kept.sha256, unusable, kept.counts, sizes, arrays["wordless"].tolist()), index


def _fits(kept: _Kept, columns: dict[str, Column]) -> bool:
    """Return whether all numbers are rows, reasons and lengths that are there."""
    sizes = [size for each in kept.pool_sizes.values() for size in each]
    lengths = {name: len(column) for name, column in columns.items()}
    return (
        kept.pool_sizes.keys() == {"hard_negatives", "other_negatives"}
        and all(re.fullmatch("[0-9]{1,9}", size) for size in sizes)
        and lengths["questions"] == lengths["question_ids"] == lengths["positive_ends"] - 1 == kept.num_rows
        and lengths["positives"] % 2 == 0
        and lengths["ids"] == lengths["contents"] == lengths["has_title"] == lengths["rows"]
        and lengths["unusable_rows"] == lengths["unusable_codes"]
        and all(are_within(columns[name], kept.num_rows) for name in ("unusable_rows", "wordless", "rows"))
        and are_within(columns["unusable_codes"], len(kept.reasons))
        and all(is_ascending(columns[name]) for name in ("unusable_rows", "wordless", "ids"))
    )
