"""The selection of ``dpr-text select``: the first usable rows of a raw DPR file as JSON lines, streaming.

A raw file is a JSON array or JSONL, plain or compressed. In memory is one row, and what is read
ahead of it. A row is written as its own bytes: no number is spelled anew, no field is lost. A row
that training cannot use is dropped and counted, by the rules of ``text/datasets/formats/dpr_record.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import simdjson

from text.artifacts import atomic_write
from text.datasets.formats.compressed_files import Form, form_of, read_chunks
from text.datasets.formats.dpr_record import POOLS, MissingCollection, SkipRow, check_row
from text.datasets.formats.json_array import elements
from text.datasets.formats.lines import read_lines
from text.datasets.formats.places import format_place
from text.datasets.formats.repair import mask_repairs, parse_row_object
from text.datasets.formats.strict_json import explain, two_parsers
from text.datasets.formats.values import FieldError, split_reason
from text.errors import DataError
from text.progress import Progress, show_file_progress

Path = str | os.PathLike[str]

_WRITE_BYTES = 1 << 20


class Selection(NamedTuple):
    """Counts of the rows that a selection has read."""

    kept: int
    """Rows written."""
    skipped: int
    """Usable rows that were passed over, as asked."""
    dropped: Counter[str]
    """Rows that are not usable, by reason."""


class _Row(NamedTuple):
    where: str
    """As errors begin."""
    content: bytes
    """As it is in the file, without a newline at its end; newlines between its parts are white space."""
    record: simdjson.Object
    """Valid until the next row is asked for."""


def select_rows(
    raw_path: Path,
    out_path: Path,
    num_items: int,
    *,
    skip_items: int = 0,
    keep_without_negatives: bool = False,
    overwrite: bool = False,
) -> Selection:
    """Writes the first usable rows of a raw DPR file, one JSON object a line.

    A row is usable if training can use it, and all three pools are there and not empty; all its
    fields are kept. Reading stops when there are enough rows: faults behind them are not found. A
    file with fewer usable rows than asked for is no error: compare ``kept`` with ``num_items``.

    Args:
        raw_path: A JSON array or JSONL in the DPR format, plain or compressed by gzip or zstd, as its name says.
        out_path: Appears whole or not at all; its folder is created.
        num_items: Rows to keep at most.
        skip_items: Usable rows to pass over first, so that several selections from one file
            (train, valid, test) have no row in common.
        keep_without_negatives: Also keep rows without ``negative_ctxs``: FAIR's trivia files have none.
        overwrite: Replaces ``out_path`` where it exists.

    Raises:
        DataError: A row is no JSON object, the file is cut, or no row is left to keep; with path, line,
            byte, and the element. Nothing is written then.
        ValueError: A count is out of range, or ``out_path`` is the raw file itself.
        FileExistsError: ``out_path`` exists and is not to be replaced, or is a folder.
        OSError: A file cannot be read or written.
    """
    _check_arguments(raw_path, out_path, num_items, skip_items, overwrite)
    raw_path = os.fspath(raw_path)
    form = form_of(raw_path)
    pools = POOLS[:2] if keep_without_negatives else POOLS
    kept, skipped = 0, 0
    dropped: Counter[str] = Counter()
    with (
        show_file_progress(raw_path, "Selecting from") as progress,
        atomic_write(out_path, overwrite=overwrite) as temporary,
        open(temporary, "wb", buffering=_WRITE_BYTES) as out,
    ):
        for row in _rows(raw_path, form, progress):
            reason = _why_dropped(row, pools)
            if reason is not None:
                dropped[reason] += 1
            elif skipped < skip_items:
                skipped += 1
            else:
                assert row is not None
                out.write(_one_line(row.content))
                kept += 1
            if kept == num_items:
                break
        if kept == 0:
            raise DataError(_nothing_kept(raw_path, skipped, dropped, pools))
    return Selection(kept, skipped, dropped)


def _check_arguments(raw_path: Path, out_path: Path, num_items: int, skip_items: int, overwrite: bool) -> None:
    for name, value, least in (("num_items", num_items, 1), ("skip_items", skip_items, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")
    if not os.path.exists(out_path):
        return
    if os.path.isdir(out_path):
        raise FileExistsError(f"{os.fspath(out_path)} is a folder; expected the name of the file to write")
    if os.path.samefile(raw_path, out_path):
        raise ValueError(f"{os.fspath(out_path)} is the raw file itself; expected another file to write to")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(out_path)} exists; expected a new file, or overwrite")


def _nothing_kept(path: str, skipped: int, dropped: Counter[str], pools: Sequence[str]) -> str:
    counts = dropped + Counter({"passed over by skip_items": skipped})
    found = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "it has no rows"
    needed = ", ".join(pools)
    return f"{format_place(path, 1, 0)}: no row to keep ({found}). Give rows with a question and {needed}."


def _why_dropped(row: _Row | None, pools: Sequence[str]) -> str | None:
    """Why a row is not usable, if it is not."""
    if row is None:
        return "blank line"
    try:
        check_row(row.record, row.content, None, Counter())
    except MissingCollection as error:
        raise DataError(f"{row.where} {error}.") from None
    except (SkipRow, FieldError) as error:
        return split_reason(str(error)).kind
    return next((f"no {name}" for name in pools if not row.record.get(name)), None)


def _one_line(content: bytes) -> bytes:
    # No newline can stand in a JSON string: what goes here stands between two parts of the record.
    return content.replace(b"\n", b"").replace(b"\r", b"") + b"\n"


def _rows(path: str, form: Form, progress: Progress) -> Iterator[_Row | None]:
    """The rows of a file of any form; None for a blank line."""
    chunks = read_chunks(path, form, progress)
    if not form.is_array:
        yield from _line_rows(chunks, path)
        return
    for element in elements(chunks, path):
        yield _Row(format_place(path, element.line, element.byte), element.content, element.record)


def _line_rows(chunks: Iterable[bytes], path: str) -> Iterator[_Row | None]:
    parsers = two_parsers()
    for number, (offset, line) in enumerate(read_lines(chunks, path), start=1):
        if not line.strip():
            yield None
            continue
        try:
            record = parse_row_object(line, next(parsers), Counter())
        except ValueError:
            is_cut = not line.endswith(b"\n")
            raise explain(mask_repairs(line), path, number, offset, may_be_cut=is_cut) from None
        yield _Row(format_place(path, number, offset), line.strip(), record)
