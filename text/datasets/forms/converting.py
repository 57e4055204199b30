"""Conversion of a data set of any form to rows in the DPR format, or to the form of another tool.

Rows are streamed: memory holds a row, read buffers and, for compact rows, hashes of the passages. All output files
appear together after the last row.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import NamedTuple

from text.artifacts import check_files, write_together
from text.datasets.collection import format_beir_line
from text.datasets.formats.dpr_record import ID_POOLS
from text.datasets.forms.compaction import PassageWriter, check_ids, expand_row
from text.datasets.forms.data_set import DataSet
from text.datasets.forms.records import Record
from text.datasets.forms.targets import TupleWriter, convert_to_flagembedding, convert_to_tevatron
from text.datasets.forms.writing import format_counts, write_rows
from text.errors import DataError, UsageError

TARGETS = ("dpr", "tevatron", "flagembedding", "sentence-transformers")
"""Forms that can be written."""
_PASSAGES = "passages.jsonl"
_BUFFER_BYTES = 1 << 20


class Output(NamedTuple):
    """Form of the rows to write."""

    to: str = "dpr"
    """One of ``TARGETS``."""
    compact: bool | None = None
    """True writes compact rows and a collection, and False full rows. None keeps the rows as they are."""
    num_negatives: int | None = None
    """Number of columns of negatives for sentence-transformers. The default is the number in the first row."""


class ConvertedFile(NamedTuple):
    """A file that a conversion has written."""

    path: str
    num_rows: int
    """Rows written, or passages of a collection."""
    counts: Counter[str]
    """Rows read, left out and changed, by reason."""


def convert_data(
    data: DataSet, output_dir: str | os.PathLike[str], output: Output, *, overwrite: bool = False
) -> list[ConvertedFile]:
    """Convert a data set, and write a file for each split and, for compact rows, the collection.

    Args:
        data: The data set.
        output_dir: Folder for ``train.jsonl``, ``valid.jsonl``, ``test.jsonl`` and ``passages.jsonl``.
        output: Form of the rows to write.
        overwrite: Replace earlier results.

    Returns:
        The written files, in order.

    Raises:
        UsageError: The form is not clear, or an option has no effect.
        DataError: A row cannot be read, or a split has no row that training can use. No file is written.
        FileExistsError: An output exists, and ``overwrite`` is false.
        OSError: A file cannot be read or written.
    """
    _check_output(output)
    is_copied = data.folder is not None and output.to == "dpr" and output.compact is not False
    with_passages = is_copied or bool(output.compact)
    names = [f"{split}.jsonl" for split in data.splits] + [_PASSAGES] * with_passages
    paths = [os.path.join(output_dir, name) for name in names]
    inputs = [data.path, *([data.collection.path] if data.collection is not None else [])]
    check_files(inputs, paths, overwrite=overwrite)
    results: list[ConvertedFile] = []
    with write_together(paths, overwrite=overwrite) as temporaries, ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb", buffering=_BUFFER_BYTES)) for path in temporaries]
        lost = Counter[str]()
        passages = PassageWriter(files[-1].write, lost) if with_passages and not is_copied else None
        for split, path, file in zip(data.splits, paths, files, strict=False):
            counts = Counter[str]()
            writer = _RowWriter(output, data, passages, counts)
            num_rows = write_rows(data.read(split, counts), file.write, writer.convert)
            if not num_rows:
                raise DataError(f"{data.path}: no row of {split} can be used{format_counts(counts)}.")
            results.append(ConvertedFile(path, num_rows, +counts))
        if is_copied and data.collection is not None:
            files[-1].writelines(format_beir_line(passage).encode() for passage in data.collection)
            results.append(ConvertedFile(paths[-1], len(data.collection), data.collection.counts))
        elif passages is not None:
            results.append(ConvertedFile(paths[-1], len(passages), +lost))
    return results


def _check_output(output: Output) -> None:
    if output.compact is not None and output.to != "dpr":
        raise UsageError(f"--compact has no effect with --to={output.to}, whose rows are full. Leave it out.")
    if output.num_negatives is not None and output.to != "sentence-transformers":
        raise UsageError("--num_negatives needs --to=sentence-transformers. Leave it out.")


class _RowWriter:
    """Conversion of a row to the records of the output.

    Args:
        output: Form of the records.
        data: Data set with the collection of compact rows.
        passages: Writer of the collection for compact rows. None writes the rows as they are.
        counts: Number of left-out fields, by kind. It is updated.
    """

    def __init__(self, output: Output, data: DataSet, passages: PassageWriter | None, counts: Counter[str]) -> None:
        self._collection, self._is_checked = data.collection, data.folder is not None
        self._passages, self._counts = passages, counts
        self._is_full = output.to != "dpr" or output.compact is False
        self._convert: Callable[[Record], Iterable[Record]] = {
            "dpr": lambda row: [row],
            "tevatron": lambda row: [convert_to_tevatron(row, counts)],
            "flagembedding": lambda row: [convert_to_flagembedding(row, counts)],
            "sentence-transformers": TupleWriter(output.num_negatives, counts).convert,
        }[output.to]

    def convert(self, row: Record) -> Iterable[Record]:
        """Return the records for a row.

        Raises:
            FieldError: A passage id is not in the collection, or the row does not fit the form.
            UsageError: A compact row needs a collection, or an option has no effect on the row.
        """
        is_compact = ID_POOLS[0] in row
        if is_compact and self._passages is not None:
            raise UsageError("--compact has no effect on rows that are compact already. Leave it out.")
        if is_compact and self._collection is None:
            if self._is_full:
                raise UsageError("the rows hold ids of passages. Give the passages with --collection.")
            self._counts["rows whose passage ids were not checked, because --collection is missing"] += 1
        elif is_compact and self._collection is not None:
            if self._is_full:
                row = expand_row(row, self._collection)
            elif not self._is_checked:
                check_ids(row, self._collection)
        elif self._collection is not None:
            raise UsageError("--collection has no effect on rows that hold passages. Leave it out.")
        return self._convert(row if self._passages is None else self._passages.compact(row))
