"""Scores of a teacher that are kept in a file while a command runs, so that an interrupted command continues.

The file holds one JSON line per call of the teacher, with a hash of its pairs. A repeated command asks for the same
pairs in the same order, so the scores of its first calls come from the file. They are the same bytes as before.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from text.artifacts import check_type, hash_json, parse_json, seal
from text.errors import ArtifactError, UsageError
from text.evaluation.score_source import TeacherRecord
from text.records import Passage
from text.retrieval.teachers import Teacher


class _Call(NamedTuple):
    """A line of the file: one call of the teacher."""

    pairs: str
    """SHA-256 of the questions and passages."""
    scores: list[float]


@contextmanager
def keep_scores(teacher: Teacher, path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Teacher]:
    """Yield the teacher with its scores kept in a file. The file is removed when the block succeeds.

    Args:
        teacher: The teacher.
        path: File of the scores. If it exists, its scores are used instead of calls of the teacher.
        overwrite: Replace the file of another teacher.

    Raises:
        ArtifactError: The file holds the scores of another teacher, and ``overwrite`` is false.
        UsageError: Another process is writing the file, or the path is a link, a folder, a device or a pipe.
    """
    is_done = False
    with _open(path) as kept:
        try:
            yield _KeptTeacher(teacher, kept, path, overwrite=overwrite)
            is_done = True
        finally:
            if is_done or _count_lines(kept) < 2:  # A failed command leaves no file without scores.
                os.unlink(path)


class _KeptTeacher:
    """A teacher that reads its first scores from a file and appends all further scores."""

    def __init__(self, teacher: Teacher, kept: BinaryIO, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        self.record, self._teacher, self._kept, self._path = teacher.record, teacher, kept, path
        known = self._read(TeacherRecord)
        if known is not None and not known.is_same(self.record) and not overwrite:
            raise ArtifactError(
                f"{os.fspath(path)}: holds scores of another teacher ({known}) from an interrupted command. Repeat "
                "that command, remove the file, or pass --overwrite."
            )
        self._is_reading = known is not None and known.is_same(self.record)
        if not self._is_reading:
            self._append(self.record, at=0)

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs."""
        pairs = hash_json([list(questions), [each[:3] for each in passages]])
        start = self._kept.tell()
        call = self._read(_Call) if self._is_reading else None
        if call is not None and call.pairs == pairs and len(call.scores) == len(passages):
            return np.array(call.scores, dtype=np.float32)
        self._is_reading = False  # The scores end here, the last line is incomplete, or the rows have changed.
        scores = self._teacher.score(questions, passages)
        self._append(_Call(pairs, [to_json_number(score) for score in scores]), at=start)
        return scores

    def _read(self, kind: type[Any]) -> Any:
        """Return the content of the next line, or None if there is no complete, undamaged line."""
        line = self._kept.readline()
        try:
            content = parse_json(line, self._path)
            if not line.endswith(b"\n") or seal(content) != content:
                return None
            return check_type({key: value for key, value in content.items() if key != "sha256"}, kind, self._path)
        except (ArtifactError, AttributeError, TypeError):
            return None

    def _append(self, content: Any, at: int) -> None:
        """Write a line at a place, and remove everything after it."""
        self._kept.seek(at)
        self._kept.truncate()
        self._kept.write(json.dumps(seal(content), ensure_ascii=False).encode() + b"\n")
        self._kept.flush()
        os.fsync(self._kept.fileno())


def _count_lines(file: BinaryIO) -> int:
    """Return the number of lines, at most 2."""
    file.seek(0)
    return len(list(islice(file, 2)))


def to_json_number(score: np.floating[Any] | float) -> float:
    """Return a float32 as the shortest decimal number that float32 reads back.

    >>> to_json_number(np.float32(0.1)), float(np.float32(0.1))
    (0.1, 0.10000000149011612)
    """
    return float(str(np.float32(score)))


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    """Open and lock a file for reading and writing. It is created if it is missing."""
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
        raise UsageError(f"{os.fspath(path)} is a link, a folder, a device or a pipe. Remove it.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        message = f"{os.fspath(path)}: another process is writing this file. Wait for it, or choose another output."
        raise UsageError(message) from None
    return file
