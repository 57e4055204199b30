"""``negatives.json`` of a training run: audits and teachers of training rows that ``dpr-text`` mined or scored."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from text.artifacts import read_json, write_json
from text.errors import ArtifactError
from text.evaluation.negative_audit import NegativeAudit, read_audit
from text.evaluation.score_source import TeacherRecord, read_score_source

NEGATIVES = "negatives.json"


class MinedFile(NamedTuple):
    """A file of training rows that ``dpr-text mine`` or ``dpr-text score`` wrote."""

    path: str
    audit: NegativeAudit | None
    """Audit of the hard negatives. None if the rows were scored but not mined."""
    teachers: dict[str, TeacherRecord]
    """Teacher of each score key."""


def write_negatives(folder: str | os.PathLike[str], paths: Iterable[str | os.PathLike[str]]) -> None:
    """Write the audits and teachers of training rows to a run's folder. Without any, nothing is written.

    Rows that have changed since they were mined have no audit, and a line on standard error names them.

    Args:
        folder: The run's folder.
        paths: Files of training rows.
    """
    found = [each for each in map(_describe_rows, paths) if each is not None]
    if found:
        write_json(Path(folder, NEGATIVES), found)


def read_negatives(path: Path) -> list[MinedFile]:
    """Return the content of ``negatives.json``.

    Raises:
        ArtifactError: The file is damaged or of another kind.
    """
    return read_json(path, list[MinedFile])


def _describe_rows(path: str | os.PathLike[str]) -> MinedFile | None:
    try:
        audit, source = read_audit(path), read_score_source(path)
    except ArtifactError as fault:
        print(f"note: the report shows no audit of {os.fspath(path)}. {fault}", file=sys.stderr)
        return None
    if audit is None and source is None:
        return None
    return MinedFile(os.fspath(path), audit, {} if source is None else source.teachers)
