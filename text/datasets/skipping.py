"""Find, count and limit the rows of checked files that no batch can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from text.datasets.dpr_file import BLANK, ELSEWHERE, DPRFile
from text.datasets.formats.dpr_record import ID_POOLS, POOLS
from text.datasets.formats.places import format_place
from text.datasets.formats.values import split_reason
from text.errors import DataError

BLANK_QUESTION = "blank question"
NO_POSITIVES = (f"no {POOLS[0]}", f"no {ID_POOLS[0]}")
"""Reasons of rows whose pool of positives is empty or missing."""
_NO_QUESTION = "question: missing"
_COLUMNS_HINT = "; docs/from/sentence-transformers.md makes rows of columns such as anchor, positive and negative"
_NUM_LISTED = 20


class SkippedRow(NamedTuple):
    """A row that no batch holds."""

    path: str
    line: int
    byte: int
    reason: str
    """The same for all rows with this kind of fault."""
    field: str = ""
    """Field at fault; line and byte are its place. Empty if the whole row is meant."""
    details: str = ""


def find_skipped(files: Sequence[DPRFile], skip_no_positives: bool = False) -> Iterator[SkippedRow]:
    """Yield the rows that no batch holds, without blank lines.

    Args:
        files: Checked files.
        skip_no_positives: Leave out rows without a positive, which the user expects. ``count_findings`` counts them.
    """
    for file in files:
        for row, reason in file.findings.unusable.without(_expected(skip_no_positives)).items():
            yield SkippedRow(file.path, *file.rows.place(row, split_reason(reason).field), *split_reason(reason))


def check_skipped(
    files: Sequence[DPRFile], max_skipped: float, *, skip_no_positives: bool = False, train: bool = True
) -> None:
    """Check that files have usable rows, and no larger share of skipped rows than ``max_skipped``.

    Args:
        files: Checked files.
        max_skipped: Largest share.
        skip_no_positives: As in ``find_skipped``.
        train: False refuses every blank question, because each question is to be evaluated.

    Raises:
        DataError: The rows are refused. The error starts with the place of the first one and lists the first twenty.
    """
    paths = ", ".join(file.path for file in files)
    num_usable = sum(file.findings.num_rows - len(file.findings.unusable) for file in files)
    found = sum((file.findings.unusable.count_reasons() for file in files), Counter[str]())
    reasons = Counter[str]()
    for reason, count in found.items():
        reasons[split_reason(reason).kind] += 0 if reason in _expected(skip_no_positives) else count
    reasons = +reasons
    num_rows = reasons.total() + num_usable + found[ELSEWHERE]
    skipped = find_skipped(files, skip_no_positives)
    if not train and (num_blank := reasons[BLANK_QUESTION]):
        blank = (
            row._replace(field="question", reason="question: blank") for row in skipped if row.reason == BLANK_QUESTION
        )
        raise DataError(
            f"{_list_rows(blank, num_blank)} In all, {num_blank} of {num_rows} rows of {paths} have no question to "
            "evaluate. Give each a question, or remove the row."
        )
    if num_rows == 0:
        raise DataError(f"{paths}: no rows, only blank lines or rows without a positive. Give one JSON object a line.")
    if num_usable == 0 and num_rows > 1 and len(reasons) == 1 and next(iter(reasons)).endswith(": missing"):
        hint = _COLUMNS_HINT if _NO_QUESTION in reasons else ""
        first = _list_rows(islice(skipped, 1), 1)
        raise DataError(
            f"{first} The key is missing in all {num_rows} rows of {paths}. Add it, or rename the key that has its "
            f"value{hint}."
        )
    if num_usable == 0 or reasons.total() / num_rows > max_skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        hint = "; skip_no_positives leaves out rows without a positive" if reasons.keys() & set(NO_POSITIVES) else ""
        raise DataError(
            f"{_list_rows(skipped, reasons.total())} In all, {reasons.total()} of {num_rows} rows of {paths} cannot be "
            f"used ({counts}). max_skipped allows {max_skipped:.3%}. Correct the rows, or raise max_skipped{hint}."
        )


def count_findings(
    files: Sequence[DPRFile], num_hard_negatives: int, num_other_negatives: int, skip_no_positives: bool = False
) -> Counter[str]:
    """Return what the check of the files found, by reason."""
    counts = Counter[str]()
    for file in files:
        findings = file.findings
        counts += Counter(findings.counts)
        reasons = findings.unusable.count_reasons()
        counts["blank lines, left out"] += reasons[BLANK]
        if skip_no_positives:
            counts["rows without a positive, left out"] += sum(reasons[reason] for reason in NO_POSITIVES)
        for name, pool, wanted in (
            ("hard_negatives", POOLS[1], num_hard_negatives),
            ("other_negatives", POOLS[2], num_other_negatives),
        ):
            few = sum(num_rows for size, num_rows in findings.pool_sizes[name].items() if size < wanted)
            counts[f"rows with fewer {pool} than asked for"] += few
    return counts


def _expected(skip_no_positives: bool) -> tuple[str, ...]:
    """Return the reasons of rows that nobody has to hear of."""
    return (BLANK, ELSEWHERE, *(NO_POSITIVES if skip_no_positives else ()))


def _list_rows(skipped: Iterator[SkippedRow], num_skipped: int) -> str:
    """Return the first rows with their places, as the beginning of an error. Equal details are given once."""
    listed: dict[str, str] = {}
    for row in islice(skipped, _NUM_LISTED):
        problem = row.reason.partition(": ")[2] if row.field else row.reason
        place = f"{format_place(row.path, row.line, row.byte)} {row.field}".rstrip()
        listed[f"{place}: {problem}"] = "" if row.details in listed.values() else row.details
    num_others = num_skipped - len(listed)
    entries = [f"{entry} ({details})" if details else entry for entry, details in listed.items()]
    return f"{'; '.join(entries)}{f'; and {num_others} more' if num_others > 0 else ''}."
