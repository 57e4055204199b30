"""Random access by row or id to the passages of a file of any size.

Two formats are read. TSV has a header and the columns id, text and title, as DPR's psgs_w100.tsv, or is MS MARCO's
collection.tsv. JSON lines have the
keys of BEIR's corpus.jsonl, of the contexts in DPR rows, or Pyserini's ``contents``. Texts are not kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from simdjson import Object

from text.artifacts import check_type, parse_json
from text.datasets.formats.array_files import ArrayFile, Column, is_ascending, is_in_range, write_arrays
from text.datasets.formats.jsonl import INDEXED_BYTES, JsonlFile, RowReader
from text.datasets.formats.places import format_place
from text.datasets.formats.sidecars import compute_data_key, load_or_make_sidecar
from text.datasets.formats.values import (
    PASSAGE_ID_KEYS,
    TEXT_KEYS,
    FieldError,
    check_no_repeated_key,
    find_id,
    read_id,
    read_text,
    read_title,
    split_reason,
)
from text.errors import ArtifactError, DataError
from text.progress import show_file_progress
from text.records import Passage, hash_text

_FORMAT = 5  # Increase when the format of the sidecar changes.
_ID_KEYS = ("_id", *PASSAGE_ID_KEYS)
_MSMARCO_COLUMNS = {"id": 0, "text": 1}
"""Columns of a file without a header. Its first line is a number, a tab and a text, as in MS MARCO's collection.tsv."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class _Facts(NamedTuple):
    """Findings of the check that are stored as JSON."""

    first_id: int | None
    """First id if the ids are consecutive numbers from 0 or 1, else None."""
    counts: dict[str, int]
    """Number of unusual rows, by reason."""
    sha256: str
    """Hash of the lines that hold passages."""


class _Findings(NamedTuple):
    """Findings of the check of all rows."""

    facts: _Facts
    blank: np.ndarray
    """Numbers of the blank lines, in ascending order."""
    keys: np.ndarray | Column
    """Hashes of all ids, in ascending order. Empty if the ids are consecutive numbers."""
    numbers: np.ndarray | Column
    """Row of the id behind each hash."""


class PassageCollection(Sequence[Passage]):
    """Passages in the order of a file, with random access by row or by id.

    All rows are checked when a file is opened for the first time. For a large file, the findings and an index of the
    ids are kept in a sidecar file beside it (``text/datasets/formats/sidecars.py``).

    Args:
        path: TSV with a header that names ``id`` and ``text``, and optionally ``title``; MS MARCO's collection.tsv,
            whose lines are an id and a text; or JSON lines.

    Raises:
        DataError: A row cannot be parsed, its id or text is missing, or two different passages have the same id. The
            error gives path, line and byte.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.rows = JsonlFile(path)
        self.path = self.rows.path
        self.key = compute_data_key(self.rows.plain_path)
        """Key of this state of the file, for names of sidecars."""
        with self.rows.open() as reader:
            head = reader.read(0)
        self._has_header = True
        self._columns = None if head.lstrip().startswith(b"{") else self._parse_header(head)
        self._findings = self._load_or_check()
        self.counts = Counter(self._findings.facts.counts)
        """Number of unusual rows, by reason."""
        self.sha256 = self._findings.facts.sha256
        """Hash of the lines that hold passages."""

    def __len__(self) -> int:
        return len(self.rows) - len(self._findings.blank) - self._first_line

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...
    def __getitem__(self, row: int | slice) -> Passage | list[Passage]:
        """Return the passage at a row, or a list of the passages in a slice of rows.

        Raises:
            IndexError: The row does not exist.
            DataError: The file has changed since it was opened.
        """
        if isinstance(row, slice):
            with self.rows.open() as reader:
                return [self._read(reader, self._get_line(number)) for number in range(len(self))[row]]
        with self.rows.open() as reader:
            row = range(len(self))[row]
            return self._read(reader, self._get_line(row))

    def __iter__(self) -> Iterator[Passage]:
        with self.rows.open() as reader:
            for row in range(len(self)):
                yield self._read(reader, self._get_line(row))

    def find_row(self, passage_id: str) -> int:
        """Return the row of the passage with this id.

        Raises:
            KeyError: No passage has this id.
        """
        return self._find(passage_id)[0]

    def find(self, passage_id: str) -> Passage:
        """Return the passage with this id. If it occurs several times, the first occurrence is returned.

        Raises:
            KeyError: No passage has this id.
        """
        return self._find(passage_id)[1]

    def describe_place(self, passage_id: str) -> str:
        """Return the place of a passage in the format of error messages: ``path:line (byte B)``.

        Raises:
            KeyError: No passage has this id.
        """
        return self.rows.describe_place(self._get_line(self.find_row(passage_id)))

    @property
    def _first_line(self) -> int:
        """Number of the line of the first row: 1 after a header, else 0."""
        return 0 if self._columns is None or not self._has_header else 1

    def _find(self, passage_id: str) -> tuple[int, Passage]:
        for row in self._find_candidate_rows(passage_id):
            passage = self[row]
            if passage.passage_id == passage_id:
                return row, passage
        raise KeyError(passage_id)

    def _find_candidate_rows(self, passage_id: str) -> Sequence[int]:
        """Return the rows that may have this id, in ascending order. Ids with equal hashes give several rows."""
        first = self._findings.facts.first_id
        if first is not None:
            is_number = passage_id.isascii() and passage_id.isdecimal() and len(passage_id) < 20
            row = int(passage_id) - first if is_number else -1
            return [row] if 0 <= row < len(self) else []
        keys, key = self._findings.keys, hash_text(passage_id)
        places = keys.find(key) if isinstance(keys, Column) else range(bisect_left(keys, key), bisect_right(keys, key))
        return sorted(int(self._findings.numbers[place]) for place in places)

    def _get_line(self, row: int) -> int:
        """Return the 0-based line of a row in the file."""
        line = row + self._first_line
        return line + bisect_right(self._passages_before_blank, line) if len(self._findings.blank) else line

    @cached_property
    def _passages_before_blank(self) -> np.ndarray:
        """Number of non-blank lines before each blank line."""
        return self._findings.blank - np.arange(len(self._findings.blank))

    def _read(self, reader: RowReader, line: int, counts: Counter[str] | None = None) -> Passage:
        if self._columns is not None:
            return self._parse_tsv(reader, line)
        try:
            record = reader.parse(line)
            if counts is not None:  # Only the check of all rows looks for repeated keys.
                check_no_repeated_key(list(record))
            return self._parse_json(record, Counter() if counts is None else counts)
        except FieldError as error:
            raise DataError(f"{self.rows.describe_place(line, split_reason(str(error)).field)} {error}.") from None

    def _parse_tsv(self, reader: RowReader, line: int) -> Passage:
        """Parse a line of a TSV file. A newline ends a row, even within quotes."""
        assert self._columns is not None
        fields = self._split(reader.read(line), line)
        names = list(self._columns)
        if len(fields) != len(names):
            start = "header" if self._has_header else "first line"
            raise DataError(
                f"{self.rows.describe_place(line)} row: {len(fields)} columns. The {start} has {len(names)}: "
                f"{', '.join(names)}."
            )
        unquote = _unquote if self._has_header else str  # MS MARCO's texts have quotes of their own.
        passage_id, title, text = (
            unquote(fields[self._columns[name]]) if name in self._columns else "" for name in ("id", "title", "text")
        )
        if not passage_id:
            raise DataError(f"{self.rows.describe_place(line)} id: empty. Give the passage an id.")
        return Passage(passage_id, title, text)

    def _parse_json(self, record: Object, counts: Counter[str]) -> Passage:
        name, value = find_id(record, _ID_KEYS)
        if value is None:
            raise FieldError(f"_id: missing. Give one of the keys {', '.join(_ID_KEYS)}")
        passage_id = read_id(value, name, counts)
        if not passage_id:
            raise FieldError(f"{name}: empty. Give the passage an id")
        text = read_text(record, "")
        if text is None:
            _check_no_hidden_text(record)
        return Passage(passage_id, read_title(record.get("title"), "title", counts), text or "")

    def _parse_header(self, head: bytes) -> dict[str, int]:
        """Return the position of each column, by its name. MS MARCO's collection.tsv has no header."""
        fields = self._split(head, 0)
        if len(fields) == 2 and fields[0].isascii() and fields[0].isdecimal():
            self._has_header = False
            return _MSMARCO_COLUMNS
        columns = {name: place for place, name in enumerate(fields)}
        if "id" not in columns or "text" not in columns:
            found = ", ".join(columns)[:100].encode("ascii", "backslashreplace").decode().strip() or "a blank line"
            raise DataError(
                f"{self.rows.describe_place(0)} header: found {found}. Name the columns id, text and title, "
                "or use JSON lines."
            )
        return columns

    def _split(self, line: bytes, number: int) -> list[str]:
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            byte = self.rows.get_offset(number) + error.start
            raise DataError(
                f"{format_place(self.path, number + 1, byte)}: not UTF-8. Write the file in UTF-8."
            ) from None
        if "\0" in text:
            byte = self.rows.get_offset(number) + line.index(b"\0")
            raise DataError(f"{format_place(self.path, number + 1, byte)}: NUL byte. Remove it.")
        return text.split("\t")

    def _load_or_check(self) -> _Findings:
        """Return the findings of the check. For a large file that was checked before, they come from its sidecar."""
        if os.path.getsize(self.rows.plain_path) < INDEXED_BYTES:
            return self._check()
        kind = f"passages-{_FORMAT}"
        with suppress(PermissionError):  # Without a folder for sidecars, the file is checked each time.
            return load_or_make_sidecar(self.rows.plain_path, kind, lambda path: _save(path, self._check()), self._load)
        return self._check()

    def _load(self, path: Path) -> _Findings:
        content, blank, keys, numbers = ArrayFile(path, [np.uint8, np.int64, np.int64, np.int64]).columns
        facts = check_type(parse_json(content.read_all().tobytes(), path), _Facts, path)
        num_passages = len(self.rows) - len(blank) - self._first_line
        num_ids = num_passages if facts.first_id is None else 0
        is_valid = num_passages >= 0 and len(keys) == len(numbers) == num_ids and is_in_range(numbers, num_passages)
        if not (is_valid and is_in_range(blank, len(self.rows)) and is_ascending(blank) and is_ascending(keys)):
            raise ArtifactError(f"{path}: does not match its data file. Remove it.")
        return _Findings(facts, blank.read_all(), keys, numbers)

    def _check(self) -> _Findings:
        """Check all rows in one pass over the file."""
        counts, blank, keys, digest = Counter[str](), array("q"), array("q"), hashlib.sha256()
        first_id: int | None = None
        with show_file_progress(self.rows.plain_path, "Reading") as progress, self.rows.open() as reader:
            for line in range(self._first_line, len(self.rows)):
                content = reader.read(line)
                progress.update(len(content))
                if content.isspace():
                    blank.append(line)
                    continue
                digest.update(content)
                row = len(keys)
                passage = self._read(reader, line, counts)
                if row == 0 and passage.passage_id in ("0", "1"):
                    first_id = int(passage.passage_id)
                if first_id is not None and passage.passage_id != str(row + first_id):
                    first_id = None
                counts["passages without text"] += not passage.text.strip()
                keys.append(hash_text(passage.passage_id))
            counts.update(reader.repairs)
        counts["blank lines"] = len(blank)
        hashes = np.asarray(keys if first_id is None else array("q"))
        order = np.argsort(hashes, kind="stable")
        self._findings = _Findings(_Facts(first_id, {}, ""), np.asarray(blank), hashes[order], order)
        counts["duplicate passages"] = self._count_duplicates(hashes[order], order)
        return self._findings._replace(facts=_Facts(first_id, dict(+counts), digest.hexdigest()))

    def _count_duplicates(self, keys: np.ndarray, rows: np.ndarray) -> int:
        """Return the number of passages that repeat an earlier one.

        Raises:
            DataError: Two different passages have the same id.
        """
        num_repeats = 0
        known: dict[str, int] = {}
        for place in np.flatnonzero(keys[1:] == keys[:-1]):
            first, second = self[int(rows[place])], self[int(rows[place + 1])]
            known.setdefault(first.passage_id, int(rows[place]))
            if second.passage_id in known:
                row = known[second.passage_id]
                if self[row] != second:
                    line = self._get_line(int(rows[place + 1]))
                    raise DataError(
                        f'{self.rows.describe_place(line)} id: "{second.passage_id}" is also the id of a different '
                        f"passage in line {self._get_line(row) + 1}. Give each passage a unique id."
                    )
                num_repeats += 1
            else:  # The hashes of two ids are equal.
                known[second.passage_id] = int(rows[place + 1])
        return num_repeats


def _check_no_hidden_text(record: Object) -> None:
    """Raise an error if the text is null and another key, with a string of several words, may hold it.

    Raises:
        FieldError: Another key may hold the text.
    """
    known = {*_ID_KEYS, *TEXT_KEYS, "title"}
    for key, value in record.items():
        if key not in known and isinstance(value, str) and " " in value.strip():
            raise FieldError(f'text: null. Move the text from {key} to text, or give "" if the passage has no text')


def _unquote(field: str) -> str:
    """Remove the enclosing quotes of a field and undouble the quotes inside. A lone quote is part of the text."""
    return field[1:-1].replace('""', '"') if field[:1] == '"' and _QUOTED.fullmatch(field) else field


def _save(path: Path, findings: _Findings) -> None:
    content = json.dumps(findings.facts._asdict(), ensure_ascii=False).encode()
    arrays = (findings.blank, findings.keys, findings.numbers)
    write_arrays(path, [np.frombuffer(content, np.uint8), *map(np.asarray, arrays)])


def format_beir_line(passage: Passage) -> str:
    """Return a passage as a line of BEIR's corpus.jsonl."""
    record = {"_id": passage.passage_id, "title": passage.title, "text": passage.text}
    return json.dumps(record, ensure_ascii=False) + "\n"
