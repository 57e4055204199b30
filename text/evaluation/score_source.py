"""Teachers that scored training rows, in a file ``ROWS.scores.json`` beside ``ROWS``.

Rows that another program has scored have no such file. Their teacher is then unknown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import FileFacts, read_sealed_beside, write_sealed


class TeacherRecord(NamedTuple):
    """Identity of a model that scores passages."""

    kind: str
    """reranker, bi-encoder or BM25."""
    model: str
    """Folder of the model as the user gave it. For BM25, the file of the collection."""
    identity: str
    """SHA-256 that identifies the files of the model, or the collection of BM25."""
    settings: dict[str, Any]
    """Settings that change the scores."""

    def __str__(self) -> str:
        return f"{self.kind} {self.model}"

    def is_same(self, other: TeacherRecord) -> bool:
        """Return whether two records are of the same teacher. The path of the model does not matter."""
        return self._replace(model="") == other._replace(model="")


class ScoreSource(NamedTuple):
    """Content of ``ROWS.scores.json``."""

    rows: FileFacts
    """Size and hash of the rows."""
    teachers: dict[str, TeacherRecord]
    """Teacher of each score key."""


def get_scores_path(rows: str | os.PathLike[str]) -> Path:
    """Return the path of the file with the teachers of rows.

    >>> get_scores_path("data/train.jsonl").name
    'train.jsonl.scores.json'
    """
    return Path(f"{os.fspath(rows)}.scores.json")


def read_score_source(rows: str | os.PathLike[str]) -> ScoreSource | None:
    """Return the teachers of rows, or None if the rows have no such file.

    Raises:
        ArtifactError: The file is damaged, or the rows have changed since they were scored.
    """
    advice = "To use the rows without the names of their teachers"
    return read_sealed_beside(get_scores_path(rows), ScoreSource, rows, lambda source: source.rows, advice)


def write_score_source(path: Path, rows: FileFacts, teachers: Mapping[str, TeacherRecord]) -> None:
    """Write the teachers of rows to a file, which may have a temporary name.

    Args:
        path: File to write.
        rows: Size and hash of the complete rows.
        teachers: Teacher of each score key.
    """
    write_sealed(path, ScoreSource(rows, dict(teachers)))
