"""Records of CSV and TSV files. The first line names the columns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator

from text.datasets.formats.compressed_files import Form, read_chunks
from text.datasets.formats.lines import MAX_ROW_BYTES, read_lines
from text.datasets.formats.values import FieldError, check_no_repeated_key
from text.datasets.forms.records import Record, explain_fields
from text.errors import DataError
from text.progress import Progress

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Separator of the columns by the ending of the name."""


class Table:
    """Records of a CSV or TSV file. An empty field is missing.

    Fields that hold the separator, a quote at their start or a newline are quoted, as spreadsheets and pandas do.

    Args:
        path: The file.
        form: Form of the file, from ``detect_form``.
        delimiter: Separator of the columns.
        counts: Number of blank lines. It is updated.
        progress: Progress bar to advance by the bytes read.
    """

    def __init__(
        self, path: str, form: Form, delimiter: str, counts: Counter[str], progress: Progress | None = None
    ) -> None:
        self._path, self._form, self._delimiter = path, form, delimiter
        self._counts, self._progress = counts, progress
        self._line = 1

    def __iter__(self) -> Iterator[Record]:
        """Yield a record for each row. Blank lines are skipped.

        Raises:
            DataError: A row has another number of columns than the header, a name occurs twice in the header, or the
                quotes are not closed.
        """
        limit = csv.field_size_limit(MAX_ROW_BYTES)  # The limit applies to the whole process.
        try:
            yield from self._read()
        except csv.Error as error:
            hint = "Enclose a field that begins with a quote in quotes, and double the quotes inside."
            raise DataError(f"{self.describe_place('')}: {error}. {hint}") from None
        finally:
            csv.field_size_limit(limit)

    def describe_place(self, field: str) -> str:
        """Return the place of the row that was read last."""
        return f"{self._path}:{self._line}"

    def _read(self) -> Iterator[Record]:
        rows = csv.reader(self._read_text(), delimiter=self._delimiter, strict=True)
        names = next(rows, [])
        with explain_fields(self):
            check_no_repeated_key(names)
            if not all(names):
                raise FieldError("header: a column without a name. Name every column in the first line")
        self._line = rows.line_num + 1
        for row in rows:
            if not row:
                self._counts["blank lines"] += 1
            elif len(row) != len(names):
                raise DataError(
                    f"{self.describe_place('')}: {len(row)} columns. The header has {len(names)}: {', '.join(names)}."
                )
            else:
                yield {name: value or None for name, value in zip(names, row, strict=True)}
            self._line = rows.line_num + 1

    def _read_text(self) -> Iterator[str]:
        lines = read_lines(read_chunks(self._path, self._form, self._progress), self._path)
        for number, (_, line) in enumerate(lines, start=1):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{self._path}:{number}: not UTF-8. Convert the file to UTF-8.") from None
