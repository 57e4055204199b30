"""The section "Hard negatives" of a run report: sources, teachers, and estimates of false negatives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from text.evaluation.negative_audit import CANDIDATES, NEGATIVES, Evidence, NegativeAudit
from text.reports.run_sections import Table
from text.reports.summaries import ABSENT
from text.runs.history import RunHistory


class ShownFile(NamedTuple):
    """Training rows that were mined or scored, in the form of the template."""

    run: int
    """Number of the run."""
    title: str
    sources: str
    """Sentence with the number of hard negatives from each source. Empty if the rows were not mined."""
    teachers: list[str]
    """Sentence for each score key."""
    table: Table | None
    """Estimates of false negatives, with a row for each kind of evidence. None without estimates."""


def list_mined_files(runs: Sequence[RunHistory]) -> list[ShownFile]:
    """Return the training rows of each run that were mined or scored."""
    return [
        ShownFile(
            number,
            _name_file(each.path, each.audit),
            "" if each.audit is None else _describe_sources(each.audit),
            [f"Scores in {key}: {teacher}." for key, teacher in each.teachers.items()],
            None if each.audit is None else _tabulate(each.audit.evidence),
        )
        for number, run in enumerate(runs)
        for each in run.mined_files
    ]


def _name_file(path: str, audit: NegativeAudit | None) -> str:
    return Path(path).name if audit is None or audit.round is None else f"{Path(path).name}, {audit.round}"


def _describe_sources(audit: NegativeAudit) -> str:
    sources = ", ".join(f"{count:,} from {source}" for source, count in audit.sources.items())
    return f"Hard negatives: {sources or 'none'}."


def _tabulate(evidence: Sequence[Evidence]) -> Table | None:
    """Return a row for each kind of evidence that was checked."""
    found = {(each.kind, each.among): each for each in evidence}
    kinds = dict.fromkeys(each.kind for each in evidence if each.checked)
    rows = [[kind, *(_format_share(found.get((kind, among))) for among in (CANDIDATES, NEGATIVES))] for kind in kinds]
    return Table(["evidence", CANDIDATES, NEGATIVES], rows) if rows else None


def _format_share(evidence: Evidence | None) -> str:
    """Return a share with its interval, such as "3.0 % (1.0 to 8.5) of 100"."""
    if evidence is None or not evidence.checked:
        return ABSENT
    share, low, high = (
        f"{100 * each:.1f}" for each in (evidence.found / evidence.checked, evidence.low, evidence.high)
    )
    return f"{share} % ({low} to {high}) of {evidence.checked:,}"
