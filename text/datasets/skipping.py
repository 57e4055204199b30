"""Unusable rows of checked files: finding them, counting them, and limiting their share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from text.datasets.dpr_file import BLANK, IN_OTHER_PART, DPRFile
from text.datasets.formats.dpr_record import ID_POOLS, POOLS
from text.datasets.formats.places import format_place
from text.datasets.formats.values import split_reason
from text.errors import DataError

BLANK_QUESTION = "blank question"
NO_POSITIVES = (f"no {POOLS[0]}", f"no {ID_POOLS[0]}")
"""Reasons of rows whose pool of positives is missing or empty."""
_NO_QUESTION = "question: missing"
_COLUMNS_HINT = (
    ". docs/from/sentence-transformers.md shows how to convert columns such as anchor, positive and negative to rows"
)
_NUM_LISTED = 20


class SkippedRow(NamedTuple):
    """An unusable row and its fault."""

    path: str
    line: int
    byte: int
    reason: str
    """Kind of the fault, the same text for all rows with this fault."""
    field: str = ""
    """Field with the fault; ``line`` and ``byte`` are its place. Empty if the fault is not in one field."""
    details: str = ""
    """More about the fault in this row."""


def find_skipped(files: Sequence[DPRFile], skip_no_positives: bool = False) -> Iterator[SkippedRow]:
    """Yield the unusable rows, except blank lines.

    Args:
        files: Checked files.
        skip_no_positives: Also leave out rows without a positive. ``count_findings`` counts them.
    """
    for file in files:
        for row, reason in file.findings.unusable.exclude_reasons(_list_expected_reasons(skip_no_positives)).items():
            yield SkippedRow(file.path, *file.rows.find_place(row, split_reason(reason).field), *split_reason(reason))


def check_skipped(
    files: Sequence[DPRFile], max_skipped: float, *, skip_no_positives: bool = False, train: bool = True
) -> None:
    """Check that files have usable rows, and that the share of unusable rows is at most ``max_skipped``.

    Args:
        files: Checked files.
        max_skipped: Maximum share of unusable rows.
        skip_no_positives: As in ``find_skipped``.
        train: False does not allow any blank question, because evaluation needs every question.

    Raises:
        DataError: A check failed. The error starts with the place of the first unusable row and lists the first twenty.
    """
    paths = ", ".join(file.path for file in files)
    num_usable = sum(file.findings.num_rows - len(file.findings.unusable) for file in files)
    found = sum((file.findings.unusable.count_reasons() for file in files), Counter[str]())
    reasons = Counter[str]()
    for reason, count in found.items():
        reasons[split_reason(reason).kind] += 0 if reason in _list_expected_reasons(skip_no_positives) else count
    reasons = +reasons
    num_rows = reasons.total() + num_usable + found[IN_OTHER_PART]
    skipped = find_skipped(files, skip_no_positives)
    if not train and (num_blank := reasons[BLANK_QUESTION]):
        blank = (
            row._replace(field="question", reason="question: blank") for row in skipped if row.reason == BLANK_QUESTION
        )
        raise DataError(
            f"{_list_rows(blank, num_blank)} In total, {num_blank} of {num_rows} rows of {paths} have a blank "
            "question, and evaluation needs every question. Add the questions, or remove the rows."
        )
    if num_rows == 0:
        raise DataError(
            f"{paths}: no rows, only blank lines or rows without a positive. Write one JSON object per line."
        )
    if num_usable == 0 and num_rows > 1 and len(reasons) == 1 and next(iter(reasons)).endswith(": missing"):
        hint = _COLUMNS_HINT if _NO_QUESTION in reasons else ""
        first = _list_rows(islice(skipped, 1), 1)
        raise DataError(
            f"{first} The key is missing in all {num_rows} rows of {paths}. Add the key, or rename the key that holds "
            f"the value{hint}."
        )
    if num_usable == 0 or reasons.total() / num_rows > max_skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        hint = ", or skip rows without a positive with skip_no_positives" if reasons.keys() & set(NO_POSITIVES) else ""
        raise DataError(
            f"{_list_rows(skipped, reasons.total())} In total, {reasons.total()} of {num_rows} rows of {paths} are "
            f"unusable ({counts}). max_skipped allows {max_skipped:.3%}. Correct the rows, or raise max_skipped{hint}."
        )


def count_findings(
    files: Sequence[DPRFile], num_hard_negatives: int, num_other_negatives: int, skip_no_positives: bool = False
) -> Counter[str]:
    """Return the number of findings of the check, by reason. Unusable rows with a fault are not counted here."""
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


def _list_expected_reasons(skip_no_positives: bool) -> tuple[str, ...]:
    """Return the reasons that are not reported as faults."""
    return (BLANK, IN_OTHER_PART, *(NO_POSITIVES if skip_no_positives else ()))


def _list_rows(skipped: Iterator[SkippedRow], num_skipped: int) -> str:
    """Return the beginning of an error: the first rows with their places. Equal details are given once."""
    listed: dict[str, str] = {}
    for row in islice(skipped, _NUM_LISTED):
        problem = row.reason.partition(": ")[2] if row.field else row.reason
        place = f"{format_place(row.path, row.line, row.byte)} {row.field}".rstrip()
        listed[f"{place}: {problem}"] = "" if row.details in listed.values() else row.details
    num_others = num_skipped - len(listed)
    entries = [f"{entry} ({details})" if details else entry for entry, details in listed.items()]
    return f"{'; '.join(entries)}{f'; and {num_others} more' if num_others > 0 else ''}."
