"""Streaming selection of the first usable rows of a raw DPR file, for ``dpr-text select``.

A raw file is a JSON array or JSONL, plain or compressed. Memory holds one row and a read buffer. Rows are written with
their original bytes, so no field is lost and no number is reformatted. Rows that training cannot use are dropped and
counted, by the rules of ``text/datasets/formats/dpr_record.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import simdjson

from text.artifacts import atomic_write
from text.datasets.formats.compressed_files import Form, detect_form, read_chunks
from text.datasets.formats.dpr_record import POOLS, MissingCollection, SkipRow, check_row
from text.datasets.formats.json_array import read_elements
from text.datasets.formats.lines import read_lines
from text.datasets.formats.places import format_place
from text.datasets.formats.repair import mask_repairs, parse_row_object
from text.datasets.formats.strict_json import alternate_parsers, explain_invalid_json
from text.datasets.formats.values import FieldError, split_reason
from text.errors import DataError
from text.progress import Progress, show_file_progress

Path = str | os.PathLike[str]

_WRITE_BYTES = 1 << 20


class Selection(NamedTuple):
    """Counts of the rows that a selection has read."""

    kept: int
    """Number of rows written."""
    skipped: int
    """Number of usable rows skipped because of ``skip_items``."""
    dropped: Counter[str]
    """Number of unusable rows, by reason."""


class _Row(NamedTuple):
    """A row of a raw file."""

    where: str
    """Place of the row, in the format of error messages."""
    content: bytes
    """Bytes of the row in the file, without a newline at the end. Newlines inside are white space between tokens."""
    record: simdjson.Object
    """Parsed row. Valid until the next row is read."""


def select_rows(
    raw_path: Path,
    out_path: Path,
    num_items: int,
    *,
    skip_items: int = 0,
    keep_without_negatives: bool = False,
    overwrite: bool = False,
) -> Selection:
    """Write the first usable rows of a raw DPR file as JSON lines.

    A row is usable if training can use it and none of its three pools is missing or empty. All fields of a row are
    kept. Reading stops after the last selected row, so errors in later rows are not found. If the file has fewer usable
    rows than ``num_items``, all of them are written.

    Args:
        raw_path: JSON array or JSONL in the DPR format, plain or compressed with gzip or zstd. The ending of the name
            gives the format.
        out_path: File to write. It is written atomically, and its folder is created.
        num_items: Maximum number of rows to keep.
        skip_items: Number of usable rows to skip first, so that several selections from one file (train, valid, test)
            have no row in common.
        keep_without_negatives: Also keep rows without ``negative_ctxs``, which FAIR's TriviaQA files lack.
        overwrite: Replace an existing ``out_path``.

    Raises:
        DataError: A row is not a JSON object, the file is truncated, or it has no row to keep. The error gives path,
            line, byte and element. No file is written.
        ValueError: A count is out of range, or ``out_path`` is the raw file itself.
        FileExistsError: ``out_path`` is a folder, or it exists and ``overwrite`` is false.
        OSError: A file cannot be read or written.
    """
    _check_arguments(raw_path, out_path, num_items, skip_items, overwrite)
    raw_path = os.fspath(raw_path)
    form = detect_form(raw_path)
    pools = POOLS[:2] if keep_without_negatives else POOLS
    kept, skipped = 0, 0
    dropped: Counter[str] = Counter()
    with (
        show_file_progress(raw_path, "Selecting from") as progress,
        atomic_write(out_path, overwrite=overwrite) as temporary,
        open(temporary, "wb", buffering=_WRITE_BYTES) as out,
    ):
        for row in _read_rows(raw_path, form, progress):
            reason = _find_drop_reason(row, pools)
            if reason is not None:
                dropped[reason] += 1
            elif skipped < skip_items:
                skipped += 1
            else:
                assert row is not None
                out.write(_remove_newlines(row.content))
                kept += 1
            if kept == num_items:
                break
        if kept == 0:
            raise DataError(_describe_empty_selection(raw_path, skipped, dropped, pools))
    return Selection(kept, skipped, dropped)


def _check_arguments(raw_path: Path, out_path: Path, num_items: int, skip_items: int, overwrite: bool) -> None:
    for name, value, least in (("num_items", num_items, 1), ("skip_items", skip_items, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")
    if not os.path.exists(out_path):
        return
    if os.path.isdir(out_path):
        raise FileExistsError(f"{os.fspath(out_path)} is a folder. Give the name of a file.")
    if os.path.samefile(raw_path, out_path):
        raise ValueError(f"{os.fspath(out_path)} is the raw file itself. Give another file to write to.")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(out_path)} already exists. Choose another file, or pass --overwrite.")


def _describe_empty_selection(path: str, skipped: int, dropped: Counter[str], pools: Sequence[str]) -> str:
    counts = dropped + Counter({"skipped by skip_items": skipped})
    found = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "it has no rows"
    needed = ", ".join(pools)
    return f"{format_place(path, 1, 0)}: no row to keep ({found}). A row needs a question and {needed}."


def _find_drop_reason(row: _Row | None, pools: Sequence[str]) -> str | None:
    """Return the reason why a row is unusable, or None if it is usable."""
    if row is None:
        return "blank line"
    try:
        check_row(row.record, row.content, None, Counter())
    except MissingCollection as error:
        raise DataError(f"{row.where} {error}.") from None
    except (SkipRow, FieldError) as error:
        return split_reason(str(error)).kind
    return next((f"no {name}" for name in pools if not row.record.get(name)), None)


def _remove_newlines(content: bytes) -> bytes:
    # A JSON string cannot contain a raw newline, so every newline here is white space between tokens.
    return content.replace(b"\n", b"").replace(b"\r", b"") + b"\n"


def _read_rows(path: str, form: Form, progress: Progress) -> Iterator[_Row | None]:
    """Yield the rows of a file of any format, and None for each blank line."""
    chunks = read_chunks(path, form, progress)
    if not form.is_array:
        yield from _read_line_rows(chunks, path)
        return
    for element in read_elements(chunks, path):
        yield _Row(format_place(path, element.line, element.byte), element.content, element.record)


def _read_line_rows(chunks: Iterable[bytes], path: str) -> Iterator[_Row | None]:
    parsers = alternate_parsers()
    for number, (offset, line) in enumerate(read_lines(chunks, path), start=1):
        if not line.strip():
            yield None
            continue
        try:
            record = parse_row_object(line, next(parsers), Counter())
        except ValueError:
            is_cut = not line.endswith(b"\n")
            raise explain_invalid_json(mask_repairs(line), path, number, offset, may_be_cut=is_cut) from None
        yield _Row(format_place(path, number, offset), line.strip(), record)
