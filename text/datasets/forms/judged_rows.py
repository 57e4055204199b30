"""Conversion of judgments to compact rows over a collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from text.datasets.collection import PassageCollection
from text.datasets.forms.folders import JudgedFolder, read_folder_questions, read_triples
from text.datasets.forms.judgments import Judgment, read_judgments
from text.datasets.forms.records import Record
from text.errors import DataError

MIN_RELEVANCE = 1
"""Default smallest relevance of a positive."""


def read_folder_rows(
    folder: JudgedFolder,
    split: str,
    collection: PassageCollection,
    counts: Counter[str],
    *,
    min_relevance: float = MIN_RELEVANCE,
    skip_missing: bool = False,
) -> Iterator[Record]:
    """Yield a compact row for each question of a split that has a positive.

    The positive with the highest relevance comes first. Passages judged 0 or below, and the negatives of triples, are
    hard negatives.

    Args:
        folder: Folder with judgments.
        split: Name of the split in the folder.
        collection: The passages of the folder.
        counts: Number of rows read, and of left-out questions and passages by reason. It is updated.
        min_relevance: Smallest relevance of a positive.
        skip_missing: Count questions and passages that are missing, and leave them out.

    Raises:
        DataError: A question or a passage is missing. The error gives the place of the judgment.
    """
    judgments, questions = read_judgments(folder.qrels[split]), read_folder_questions(folder, split)
    triples = read_triples(folder.triples[split]) if split in folder.triples else {}
    for question_id, judged in judgments.items():
        if question_id not in questions:
            problem = f"{judged[0].place}: question {question_id!r} is not in {folder.questions[split]}"
            _count_missing(problem, "judged questions that are missing, left out", counts, skip_missing)
            continue
        more = [Judgment(each, 0, folder.triples[split]) for each in triples.get(question_id, ())]
        row = _build_row(
            question_id, questions[question_id], [*judged, *more], collection, counts, min_relevance, skip_missing
        )
        if row is None:
            counts["questions without a positive, left out"] += 1
        else:
            yield row


def _build_row(
    question_id: str,
    question: str,
    judged: Sequence[Judgment],
    collection: PassageCollection,
    counts: Counter[str],
    min_relevance: float,
    skip_missing: bool,
) -> Record | None:
    """Return the row of a question, or None if no positive has a text."""
    by_id: dict[str, Judgment] = {}
    for each in judged:
        by_id.setdefault(each.passage_id, each)  # A negative of triples may be judged.
    ranked = sorted(by_id.values(), key=lambda each: -each.relevance)  # Equal ones keep the file's order.
    found = [each for each in ranked if _has_text(each, collection, counts, skip_missing)]
    positives = [each.passage_id for each in found if each.relevance >= min_relevance]
    negatives = [each.passage_id for each in found if each.relevance < min(min_relevance, 1)]
    counts["judgments above 0 and below min_relevance, left out"] += len(found) - len(positives) - len(negatives)
    if not positives:
        return None
    row = {"question_id": question_id, "question": question}
    return row | {"positive_ids": positives, "hard_negative_ids": negatives}


def _has_text(judgment: Judgment, collection: PassageCollection, counts: Counter[str], skip_missing: bool) -> bool:
    """Return whether a judged passage exists and has a text or a title. Otherwise it is counted."""
    try:
        passage = collection.find(judgment.passage_id)
    except KeyError:
        problem = f"{judgment.place}: passage {judgment.passage_id!r} is not in {collection.path}"
        _count_missing(problem, "judged passages that are missing, left out", counts, skip_missing)
        return False
    has_text = bool(passage.text.strip() or passage.title.strip())
    counts["judged passages without text, left out"] += not has_text
    return has_text


def _count_missing(problem: str, reason: str, counts: Counter[str], skip_missing: bool) -> None:
    if not skip_missing:
        raise DataError(f"{problem}. Correct the files, or leave such judgments out: dpr-text convert --skip_missing.")
    counts[reason] += 1
