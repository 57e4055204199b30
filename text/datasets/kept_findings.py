"""Findings of the check of a file in the DPR format, and the sidecar that stores them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text.artifacts import check_type, parse_json
from text.datasets.formats.array_files import (
    ArrayFile,
    Column,
    check_ascending,
    is_ascending,
    is_in_range,
    write_arrays,
)
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
    """Number of rows, including unusable ones."""
    sha256: str
    """Hash of the decompressed content of the file."""
    unusable: UnusableRows
    """Unusable rows, each with a reason, or with a field and its problem (``FieldError``)."""
    counts: dict[str, int]
    """Number of skipped passages and missing pools, by reason."""
    pool_sizes: dict[str, dict[int, int]]
    """Histogram per pool of negatives: number of usable negatives -> number of rows."""
    wordless: list[int]
    """Usable rows whose question, or the text of a passage, has no letter or digit and so perhaps no token."""


class _StoredFindings(NamedTuple):
    """Findings that are stored as JSON, whose keys are strings. Row numbers are stored as arrays."""

    num_rows: int
    sha256: str
    reasons: list[str]
    counts: dict[str, int]
    pool_sizes: dict[str, dict[str, int]]


def save_findings(path: Path, findings: Findings, index: RowIndex) -> None:
    """Write the findings and the index of the rows to a sidecar."""
    stored = findings._asdict() | {"reasons": findings.unusable.reasons}
    content = json.dumps({name: stored[name] for name in _StoredFindings._fields}, ensure_ascii=False).encode()
    rows = [findings.unusable.rows, findings.unusable.codes, np.array(findings.wordless, np.int64)]
    flat = index._replace(positives=index.positives.reshape(-1))
    write_arrays(path, [np.frombuffer(content, np.uint8), *rows, *flat])


def load_findings(path: Path, num_rows: int) -> tuple[Findings, RowIndex]:
    """Read a sidecar that ``save_findings`` wrote.

    Raises:
        ArtifactError: The sidecar is damaged, or does not match a data file with this number of rows.
    """
    columns = dict(zip(_DTYPES, ArrayFile(path, list(_DTYPES.values())).columns, strict=True))
    arrays = {name: column.read_all() for name, column in columns.items()}
    stored = check_type(parse_json(arrays["json"].tobytes(), path), _StoredFindings, path)
    if stored.num_rows != num_rows or not _are_valid(stored, columns):
        raise ArtifactError(f"{path}: does not match its data file. Remove it.")
    check_ascending(columns["positive_ends"], 0, len(arrays["positives"]) // 2, path)
    unusable = UnusableRows(arrays["unusable_rows"], arrays["unusable_codes"], stored.reasons)
    sizes = {name: {int(size): count for size, count in each.items()} for name, each in stored.pool_sizes.items()}
    index = RowIndex(*(arrays[name] for name in RowIndex._fields))
    index = index._replace(has_title=index.has_title != 0, positives=index.positives.reshape(-1, 2))
    return Findings(num_rows, stored.sha256, unusable, stored.counts, sizes, arrays["wordless"].tolist()), index


def _are_valid(stored: _StoredFindings, columns: dict[str, Column]) -> bool:
    """Return whether all row numbers, reason codes and array lengths are in range."""
    sizes = [size for each in stored.pool_sizes.values() for size in each]
    lengths = {name: len(column) for name, column in columns.items()}
    return (
        stored.pool_sizes.keys() == {"hard_negatives", "other_negatives"}
        and all(re.fullmatch("[0-9]{1,9}", size) for size in sizes)
        and lengths["questions"] == lengths["question_ids"] == lengths["positive_ends"] - 1 == stored.num_rows
        and lengths["positives"] % 2 == 0
        and lengths["ids"] == lengths["contents"] == lengths["has_title"] == lengths["rows"]
        and lengths["unusable_rows"] == lengths["unusable_codes"]
        and all(is_in_range(columns[name], stored.num_rows) for name in ("unusable_rows", "wordless", "rows"))
        and is_in_range(columns["unusable_codes"], len(stored.reasons))
        and all(is_ascending(columns[name]) for name in ("unusable_rows", "wordless", "ids"))
    )
