"""Rows of a file of any form, converted to the DPR format one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from text.datasets.formats.dpr_record import SkipRow
from text.datasets.forms.columns import ColumnReader, Columns, find_columns, merge_pairs, parse_columns
from text.datasets.forms.records import Record, Records
from text.datasets.forms.rows import ToRow, convert_dpr, convert_dpr_output, convert_flagembedding, convert_tevatron
from text.datasets.forms.sources import recognize_form
from text.errors import DataError, UsageError

_COLUMNS_FORM = "sentence-transformers"
_CONVERTERS: dict[str, ToRow] = {
    "dpr": convert_dpr,
    "dpr-output": convert_dpr_output,
    "tevatron": convert_tevatron,
    "flagembedding": convert_flagembedding,
}
FORMS = (*_CONVERTERS, _COLUMNS_FORM)
"""Forms of rows."""


class Reading(NamedTuple):
    """Options for reading the rows of a file."""

    form: str | None = None
    """Form of the rows. None recognizes it by the keys of the first record."""
    columns: Mapping[str, Any] | None = None
    """Names of columns by role, for tables whose columns have unusual names."""
    min_relevance: float | None = None
    """Smallest label or score of a positive."""


def read_rows(
    records: Records, reading: Reading, counts: Counter[str], *, may_be_empty: bool = False
) -> Iterator[Record]:
    """Yield the rows of a file in the DPR format. A row that training cannot use is counted and left out.

    Args:
        records: Records of the file.
        reading: Form, columns and threshold.
        counts: Number of rows read and left out, by reason. It is updated.
        may_be_empty: Count a file without a record. By default, it is an error.

    Raises:
        UsageError: The form is not clear, or an option has no effect for this form.
        FieldError: A field is missing or has the wrong type.
        DataError: The file has no record, or a record cannot be parsed.
    """
    stream = iter(records)
    first = next(stream, None)
    if first is None and may_be_empty:
        counts["files without rows"] += 1
        return
    if first is None:
        raise DataError(f"{records.describe_place('')}: no rows. Give a file with at least one row.")
    form = reading.form or (_COLUMNS_FORM if reading.columns else recognize_form(first, records.describe_place("")))
    counts[f"{form} rows read"] += 0  # The first count to print.
    if form == _COLUMNS_FORM:
        columns = _choose_columns(first, reading.columns, records)
        if reading.min_relevance is not None and columns.score is None:
            raise UsageError("--min_relevance needs a label or a score in each row, but there is none. Leave it out.")
        convert: ToRow = ColumnReader(columns, reading.min_relevance, find_negatives=not reading.columns).convert
        rows = _convert(chain([first], stream), form, convert, counts)
        rows = merge_pairs(rows, counts) if columns.score is not None else rows
    else:
        for name, value in (("columns", reading.columns or None), ("min_relevance", reading.min_relevance)):
            if value is not None:
                raise UsageError(f"--{name} has no effect on rows of the form {form}. Leave it out.")
        rows = _convert(chain([first], stream), form, _CONVERTERS[form], counts)
    for row in rows:
        if row.get("positive_ctxs") or row.get("positive_ids"):
            yield row
        else:
            counts["rows without a positive, left out"] += 1


def _convert(records: Iterable[Record], form: str, convert: ToRow, counts: Counter[str]) -> Iterator[Record]:
    read = f"{form} rows read"
    for record in records:
        counts[read] += 1
        try:
            row = convert(record, counts)
        except SkipRow as reason:
            counts[f"rows {reason}, left out"] += 1
            continue
        yield row


def _choose_columns(first: Record, given: Mapping[str, Any] | None, records: Records) -> Columns:
    """Return the columns of a table, by the flag or by their usual names.

    Raises:
        UsageError: A named column does not exist, or the usual names are missing or ambiguous.
    """
    place, shown = records.describe_place(""), " ".join(", ".join(first).split())[:200]
    if given:
        columns = parse_columns(given)
        if columns.question not in first or columns.positive not in first:
            missing = next(name for name in (columns.question, columns.positive) if name not in first)
            raise UsageError(f"{place}: --columns names {missing}, which the first row lacks; found {shown}.")
        return columns
    found = find_columns(first)
    if len(found) == 1:
        return found[0]
    choices = [f"--columns='{_format_columns(columns)}'" for columns in found]
    if choices:
        raise UsageError(f"{place}: the columns {shown} are ambiguous. Choose one: {'; or '.join(choices)}.")
    raise UsageError(f"{place}: no question and positive among the columns {shown}. Name them with --columns.")


def _format_columns(columns: Columns) -> str:
    given = {role: value for role, value in columns._asdict().items() if value}
    negatives = given.pop("negatives", ())
    parts = [f"{role}: {value}" for role, value in given.items()]
    return "{" + ", ".join([*parts, *([f"negative: [{', '.join(negatives)}]"] if negatives else [])]) + "}"
