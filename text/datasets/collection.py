"""PassageCollection: passages by row or by id, from a file of any size.

A file is psgs_w100.tsv's form (a header; id, text and title between tabs), or one JSON object a line: BEIR's
corpus.jsonl, the names that DPR's rows have, or Pyserini's ``contents``. Nothing of it is kept in memory.
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
from text.datasets.formats.array_files import ArrayFile, Column, are_within, is_ascending, write_arrays
from text.datasets.formats.jsonl import INDEXED_BYTES, JsonlFile, RowReader
from text.datasets.formats.places import format_place
from text.datasets.formats.sidecars import data_key, sidecar
from text.datasets.formats.values import (
    TEXT_KEYS,
    FieldError,
    find_id,
    read_id,
    read_text,
    read_title,
    refuse_repeated_key,
    split_reason,
)
from text.errors import ArtifactError, DataError
from text.progress import show_file_progress
from text.records import Passage, text_key

_FORM = 5  # counts up when the form of the sidecar changes
_ID_KEYS = ("_id", "passage_id", "psg_id", "id", "docidx")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class _Facts(NamedTuple):
    """Findings of the check of all rows."""

    first_id: int | None
    """Where ids count the passages, from this number on."""
    counts: dict[str, int]
    sha256: str
    """Hash of the passages' lines."""


class _Checked(NamedTuple):
    """What the check of all rows found."""

    facts: _Facts
    blank: np.ndarray
    """Lines that hold no passage, in ascending order."""
    keys: np.ndarray | Column
    """Hashes of all ids in ascending order. There are none if ids count the passages."""
    numbers: np.ndarray | Column
    """Row of each of these ids."""


class PassageCollection(Sequence[Passage]):
    """Passages in the order of a file; random access, also by id.

    All rows are checked once, when a file is opened for the first time; what was found, and where ids are, is
    kept beside a large file (``text/datasets/formats/sidecars.py``).

    Args:
        path: TSV with a header that names ``id`` and ``text``, and maybe ``title``; or JSON lines.

    Raises:
        DataError: A row cannot be read, an id or the field of the text is missing, or an id stands for two texts; with
            path, line and byte.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.rows = JsonlFile(path)
        self.path = self.rows.path
        self.key = data_key(self.rows.plain_path)
        """Names this state of the file."""
        with self.rows.open() as reader:
            head = reader.read(0)
        self._columns = None if head.lstrip().startswith(b"{") else self._header(head)
        self._checked = self._look_up()
        self.counts = Counter(self._checked.facts.counts)
        """Unusual rows, by reason."""
        self.sha256 = self._checked.facts.sha256
        """Hash of the lines that hold passages."""

    def __len__(self) -> int:
        return len(self.rows) - len(self._checked.blank) - self._first_line

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...
    def __getitem__(self, row: int | slice) -> Passage | list[Passage]:
        """The passages at these rows.

        Raises:
            IndexError: There is none.
            DataError: The file has changed since it was opened.
        """
        if isinstance(row, slice):
            with self.rows.open() as reader:
                return [self._read(reader, self._line(number)) for number in range(len(self))[row]]
        with self.rows.open() as reader:
            row = range(len(self))[row]
            return self._read(reader, self._line(row))

    def __iter__(self) -> Iterator[Passage]:
        with self.rows.open() as reader:
            for row in range(len(self)):
                yield self._read(reader, self._line(row))

    def row(self, passage_id: str) -> int:
        """The row of a passage.

        Raises:
            KeyError: No passage has this id.
        """
        return self._find(passage_id)[0]

    def find(self, passage_id: str) -> Passage:
        """The passage with this id; of several that are the same, the first.

        Raises:
            KeyError: No passage has this id.
        """
        return self._find(passage_id)[1]

    def where(self, passage_id: str) -> str:
        """Return the place of a passage, as errors begin: ``path:line (byte B)``.

        Raises:
            KeyError: No passage has this id.
        """
        return self.rows.where(self._line(self.row(passage_id)))

    @property
    def _first_line(self) -> int:
        return 0 if self._columns is None else 1

    def _find(self, passage_id: str) -> tuple[int, Passage]:
        for row in self._candidates(passage_id):
            passage = self[row]
            if passage.passage_id == passage_id:
                return row, passage
        raise KeyError(passage_id)

    def _candidates(self, passage_id: str) -> Sequence[int]:
        """Rows that may have this id: the one that it counts, or those with its hash, in order."""
        first = self._checked.facts.first_id
        if first is not None:
            is_number = passage_id.isascii() and passage_id.isdecimal() and len(passage_id) < 20
            row = int(passage_id) - first if is_number else -1
            return [row] if 0 <= row < len(self) else []
        keys, key = self._checked.keys, text_key(passage_id)
        places = keys.find(key) if isinstance(keys, Column) else range(bisect_left(keys, key), bisect_right(keys, key))
        return sorted(int(self._checked.numbers[place]) for place in places)

    def _line(self, row: int) -> int:
        """The line of the file on which a row stands."""
        line = row + self._first_line
        return line + bisect_right(self._passages_before_blank, line) if len(self._checked.blank) else line

    @cached_property
    def _passages_before_blank(self) -> np.ndarray:
        """Number of the lines before each blank line that are not blank."""
        return self._checked.blank - np.arange(len(self._checked.blank))

    def _read(self, reader: RowReader, line: int, counts: Counter[str] | None = None) -> Passage:
        if self._columns is not None:
            return self._of_tsv(reader, line)
        try:
            record = reader.parse(line)
            if counts is not None:  # the one pass over all rows
                refuse_repeated_key(list(record))
            return self._of_json(record, Counter() if counts is None else counts)
        except FieldError as error:
            raise DataError(f"{self.rows.where(line, split_reason(str(error)).field)} {error}.") from None

    def _of_tsv(self, reader: RowReader, line: int) -> Passage:
        """A row is what stands between two newlines, whatever quotes it has."""
        assert self._columns is not None
        fields = self._split(reader.read(line), line)
        names = list(self._columns)
        if len(fields) != len(names):
            raise DataError(
                f"{self.rows.where(line)} row: {len(fields)} columns. The header has {len(names)}: {', '.join(names)}."
            )
        passage_id, title, text = (
            _unquoted(fields[self._columns[name]]) if name in self._columns else "" for name in ("id", "title", "text")
        )
        if not passage_id:
            raise DataError(f"{self.rows.where(line)} id: empty. Give the passage an id.")
        return Passage(passage_id, title, text)

    def _of_json(self, record: Object, counts: Counter[str]) -> Passage:
        name, value = find_id(record, _ID_KEYS)
        if value is None:
            raise FieldError(f"_id: missing. Give one of the keys {', '.join(_ID_KEYS)}")
        passage_id = read_id(value, name, counts)
        if not passage_id:
            raise FieldError(f"{name}: empty. Give the passage an id")
        text = read_text(record, "")
        if text is None:
            _refuse_hidden_text(record)
        return Passage(passage_id, read_title(record.get("title"), "title", counts), text or "")

    def _header(self, head: bytes) -> dict[str, int]:
        """Return the place of each column."""
        columns = {name: place for place, name in enumerate(self._split(head, 0))}
        if "id" not in columns or "text" not in columns:
            found = ", ".join(columns)[:100].encode("ascii", "backslashreplace").decode().strip() or "a blank line"
            raise DataError(
                f"{self.rows.where(0)} header: found {found}. Name the columns id, text and title, or give JSON lines."
            )
        return columns

    def _split(self, line: bytes, number: int) -> list[str]:
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            byte = self.rows.offset(number) + error.start
            raise DataError(
                f"{format_place(self.path, number + 1, byte)}: not UTF-8. Write the file in UTF-8."
            ) from None
        if "\0" in text:
            byte = self.rows.offset(number) + line.index(b"\0")
            raise DataError(f"{format_place(self.path, number + 1, byte)}: NUL byte. Remove it.")
        return text.split("\t")

    def _look_up(self) -> _Checked:
        """Return the findings of the check, from the sidecar if the file is large and was checked before."""
        if os.path.getsize(self.rows.plain_path) < INDEXED_BYTES:
            return self._check()
        kind = f"passages-{_FORM}"
        with suppress(PermissionError):  # no folder for it: all is found anew each time
            return sidecar(self.rows.plain_path, kind, lambda path: _save(path, self._check()), self._load)
        return self._check()

    def _load(self, path: Path) -> _Checked:
        content, blank, keys, numbers = ArrayFile(path, [np.uint8, np.int64, np.int64, np.int64]).columns
        facts = check_type(parse_json(content.array().tobytes(), path), _Facts, path)
        num_passages = len(self.rows) - len(blank) - self._first_line
        num_ids = num_passages if facts.first_id is None else 0
        fits = num_passages >= 0 and len(keys) == len(numbers) == num_ids and are_within(numbers, num_passages)
        if not (fits and are_within(blank, len(self.rows)) and is_ascending(blank) and is_ascending(keys)):
            raise ArtifactError(f"{path}: does not fit its data. Remove it.")
        return _Checked(facts, blank.array(), keys, numbers)

    def _check(self) -> _Checked:
        """Read all rows once."""
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
                keys.append(text_key(passage.passage_id))
            counts.update(reader.repairs)
        counts["blank lines"] = len(blank)
        hashes = np.asarray(keys if first_id is None else array("q"))
        order = np.argsort(hashes, kind="stable")
        self._checked = _Checked(_Facts(first_id, {}, ""), np.asarray(blank), hashes[order], order)
        counts["duplicate passages"] = self._count_duplicates(hashes[order], order)
        return self._checked._replace(facts=_Facts(first_id, dict(+counts), digest.hexdigest()))

    def _count_duplicates(self, keys: np.ndarray, rows: np.ndarray) -> int:
        """Passages that stand more than once; two texts with one id are an error."""
        again = 0
        known: dict[str, int] = {}
        for place in np.flatnonzero(keys[1:] == keys[:-1]):
            first, second = self[int(rows[place])], self[int(rows[place + 1])]
            known.setdefault(first.passage_id, int(rows[place]))
            if second.passage_id in known:
                row = known[second.passage_id]
                if self[row] != second:
                    line = self._line(int(rows[place + 1]))
                    raise DataError(
                        f'{self.rows.where(line)} id: "{second.passage_id}" also stands in line '
                        f"{self._line(row) + 1} with another text. Give each passage an id of its own."
                    )
                again += 1
            else:  # another id of the same hash
                known[second.passage_id] = int(rows[place + 1])
        return again


def _refuse_hidden_text(record: Object) -> None:
    """Refuse a passage whose text is null, and may stand under another key: a string of several words."""
    known = {*_ID_KEYS, *TEXT_KEYS, "title"}
    for key, value in record.items():
        if key not in known and isinstance(value, str) and " " in value.strip():
            raise FieldError(f'text: null. Give the text in place of {key} under this key, or "" if there is none')


def _unquoted(field: str) -> str:
    """A field as DPR's files have it: in quotes, those within doubled; whatever else it is, as it is."""
    return field[1:-1].replace('""', '"') if field[:1] == '"' and _QUOTED.fullmatch(field) else field


def _save(path: Path, checked: _Checked) -> None:
    content = json.dumps(checked.facts._asdict(), ensure_ascii=False).encode()
    arrays = (checked.blank, checked.keys, checked.numbers)
    write_arrays(path, [np.frombuffer(content, np.uint8), *map(np.asarray, arrays)])


def beir_line(passage: Passage) -> str:
    """A passage as a line of BEIR's corpus.jsonl."""
    record = {"_id": passage.passage_id, "title": passage.title, "text": passage.text}
    return json.dumps(record, ensure_ascii=False) + "\n"
