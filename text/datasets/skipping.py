"""Find, count and limit the rows of checked files that no batch can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from text.datasets.dpr_file import BLANK, DPRFile
from text.datasets.formats.dpr_record import POOLS
from text.errors import DataError


class SkippedRow(NamedTuple):
    """A row that no batch holds."""

    path: str
    line: int
    byte: int
    reason: str


def find_skipped(files: Sequence[DPRFile], train: bool) -> Iterator[SkippedRow]:
    """Yield the rows that no batch holds, without blank lines.

    Raises:
        DataError: A question for evaluation is blank.
    """
    for file in files:
        for row, reason in file.findings.unusable.items():
            if reason == "blank question" and not train:
                raise DataError(f"{file.rows.where(row)} question: blank; expected a question to evaluate")
            if reason != BLANK:
                yield SkippedRow(file.path, row + 1, file.rows.offset(row), reason)


def check_skipped(files: Sequence[DPRFile], skipped: Sequence[SkippedRow], max_skipped: float) -> None:
    """Check that files have usable rows, and no larger share of skipped rows than ``max_skipped``.

    Raises:
        DataError: They do not; with path, line and byte of the first skipped row.
    """
    paths = ", ".join(file.path for file in files)
    num_usable = sum(file.findings.num_rows - len(file.findings.unusable) for file in files)
    num_rows = len(skipped) + num_usable
    if num_rows == 0:
        raise DataError(f"{paths}: no rows, only blank lines; expected one JSON object a line")
    if num_usable == 0 or len(skipped) / num_rows > max_skipped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(row.reason for row in skipped).items())
        first = skipped[0]
        raise DataError(
            f"{first.path}:{first.line} (byte {first.byte}): {first.reason}; in all {len(skipped)} of {num_rows} "
            f"rows of {paths} are unusable ({reasons}), expected at most {max_skipped:.3%} (max_skipped)"
        )


def count_findings(files: Sequence[DPRFile], num_hard_negatives: int, num_other_negatives: int) -> Counter[str]:
    """Return what the check of the files found, by reason."""
    counts = Counter[str]()
    for file in files:
        findings = file.findings
        counts += Counter(findings.counts)
        counts["blank lines, left out"] += list(findings.unusable.values()).count(BLANK)
        for name, pool, wanted in (
            ("hard_negatives", POOLS[1], num_hard_negatives),
            ("other_negatives", POOLS[2], num_other_negatives),
        ):
            few = sum(num_rows for size, num_rows in findings.pool_sizes[name].items() if size < wanted)
            counts[f"rows with fewer {pool} than asked for"] += few
    return counts
