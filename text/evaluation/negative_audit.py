"""Estimates of the share of false negatives among mined hard negatives, each with a 95 % confidence interval.

A false negative is a passage that answers its question although it is not a known positive. Nobody has judged the
mined passages, so each estimate uses evidence of one kind. The kinds miss different false negatives and are not added
up: the positives of other rows are few, an answer in the text can be a coincidence, and a teacher can be wrong.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from text.artifacts import FileFacts, read_sealed_beside, write_sealed
from text.evaluation.score_source import TeacherRecord

OTHER_ROWS = "a positive of another row with the same question"
ANSWERS = "contains an answer"
TEACHER = "the teacher scores it above the positive"
CANDIDATES, NEGATIVES = "candidates", "hard negatives"
_Z = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


class Evidence(NamedTuple):
    """Passages that count as false negatives by one kind of evidence."""

    kind: str
    among: str
    """candidates: the passages of the runs that were checked, before the filter on this evidence. hard negatives: the
    passages in the mined rows."""
    found: int
    """Number of passages with this evidence."""
    checked: int
    """Number of passages that were checked for it."""
    low: float
    """Lower end of the 95 % interval of the share."""
    high: float
    """Upper end of the 95 % interval of the share."""

    def __str__(self) -> str:
        if not self.checked:
            return f"not checked  {self.kind}"
        shares = [f"{share:.1%}" for share in (self.found / self.checked, self.low, self.high)]
        return f"{self.found:,} of {self.checked:,} = {shares[0]} ({shares[1]} to {shares[2]})  {self.kind}"


class NegativeAudit(NamedTuple):
    """Content of ``ROWS.audit.json``."""

    rows: FileFacts
    """Size and hash of the mined rows."""
    round: str | None
    """Round of mining."""
    sources: dict[str, int]
    """Number of hard negatives from each run."""
    teachers: dict[str, TeacherRecord]
    """Teacher of each score key. Empty without a teacher."""
    evidence: list[Evidence]


class EvidenceCounts:
    """Counts of passages with and without evidence that they are false negatives."""

    def __init__(self) -> None:
        self._found, self._checked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()

    def add(self, kind: str, among: str, verdicts: Iterable[bool]) -> None:
        """Add passages that could have evidence of a kind. True marks a passage that has it."""
        for verdict in verdicts:
            self._found[kind, among] += verdict
            self._checked[kind, among] += 1

    def estimate(self) -> list[Evidence]:
        """Return the estimate of each kind, among the candidates and then among the hard negatives."""
        keys = [(kind, among) for among in (CANDIDATES, NEGATIVES) for kind in (OTHER_ROWS, ANSWERS, TEACHER)]
        return [
            Evidence(*key, self._found[key], self._checked[key], *wilson_interval(self._found[key], self._checked[key]))
            for key in keys
        ]


def wilson_interval(found: int, checked: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share (Wilson 1927). It assumes that passages are independent.

    Args:
        found: Number of successes.
        checked: Number of trials. With 0 the interval is 0 to 1.

    >>> [round(end, 4) for end in wilson_interval(0, 10)]  # 0 to z² / (n + z²)
    [0.0, 0.2775]
    """
    if not checked:
        return 0.0, 1.0
    share, z2 = found / checked, _Z * _Z
    center = (share + z2 / (2 * checked)) / (1 + z2 / checked)
    half = _Z / (1 + z2 / checked) * math.sqrt(share * (1 - share) / checked + z2 / (4 * checked * checked))
    low = 0.0 if found == 0 else center - half  # Rounding would give a tiny number.
    return low, 1.0 if found == checked else center + half


def get_audit_path(rows: str | os.PathLike[str]) -> Path:
    """Return the path of the audit of mined rows."""
    return Path(f"{os.fspath(rows)}.audit.json")


def write_audit(
    path: Path,
    rows: FileFacts,
    *,
    round_name: str | None,
    sources: Mapping[str, int],
    teachers: Mapping[str, TeacherRecord],
    evidence: Iterable[Evidence],
) -> None:
    """Write the audit of mined rows to a file, which may have a temporary name.

    Args:
        path: File to write.
        rows: Size and hash of the complete rows.
        round_name: See ``NegativeAudit.round``.
        sources: See ``NegativeAudit``.
        teachers: See ``NegativeAudit``.
        evidence: See ``NegativeAudit``.
    """
    write_sealed(path, NegativeAudit(rows, round_name, dict(sources), dict(teachers), list(evidence)))


def copy_audit(path: Path, rows: FileFacts, audit: NegativeAudit) -> None:
    """Write the audit of rows for a copy of them, such as the same rows with scores. See ``write_audit``."""
    write_sealed(path, audit._replace(rows=rows))


def read_audit(rows: str | os.PathLike[str]) -> NegativeAudit | None:
    """Return the audit of mined rows, or None if the rows have none.

    Raises:
        ArtifactError: The file is damaged, or the rows have changed since they were mined.
    """
    advice = "To use the rows without their audit"
    return read_sealed_beside(get_audit_path(rows), NegativeAudit, rows, lambda audit: audit.rows, advice)
