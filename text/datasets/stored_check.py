"""Check that the questions and passages of rows have stored embeddings, before training starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from text.datasets.dpr import DPRDataPipe
from text.datasets.formats.dpr_record import Row
from text.errors import DataError
from text.records import Passage

HasQuestions = Callable[[Sequence[str]], np.ndarray]
"""Function from N questions to a mask of the questions with an embedding, (N,) bool."""
ComparePassages = Callable[[Sequence[Passage]], np.ndarray]
"""Function from N passages to an (N,) array: 0 for no embedding, 1 for one of another text, 2 for one of this text."""


def check_stored(
    pipes: Iterable[DPRDataPipe],
    source: str,
    *,
    has_questions: HasQuestions | None = None,
    compare_passages: ComparePassages | None = None,
) -> Counter[str]:
    """Check that every text that the pipes may use has a stored embedding.

    These are the questions, all positives, and all negatives of the kinds that a pipe samples.

    Args:
        pipes: The data.
        source: Folder of the embeddings, for error messages.
        has_questions: Lookup of questions. None does not check them.
        compare_passages: Lookup of passages. None does not check them.

    Returns:
        Number of passages in rows, and number of these passages whose title or text differs from the encoded text.

    Raises:
        DataError: A question or a passage has no embedding. The error gives path and line. Or a file has changed since
            it was checked.
    """
    counts = Counter[str]()
    for pipe in pipes:
        for file in pipe.files:
            with file.open() as reader:
                for number in file.find_usable_rows().tolist():
                    row = reader.read(number)
                    if has_questions is not None and not has_questions([row.question])[0]:
                        place = file.rows.describe_place(number)
                        raise DataError(
                            f"{place} question: no embedding in {source}. Encode the questions of this file."
                        )
                    if compare_passages is not None:
                        passages = _list_passages(pipe, row)
                        found = compare_passages(passages)
                        _check_found(found, passages, file.rows.describe_place(number), source)
                        counts.update({"passages": len(found), "other texts": int((found == 1).sum())})
    return counts


def _list_passages(pipe: DPRDataPipe, row: Row) -> list[Passage]:
    """Return the passages of a row that the pipe may use."""
    passages: list[Passage | None] = [*row.positives]
    if pipe.num_hard_negatives:
        passages += row.hard_negatives
    if pipe.num_other_negatives:
        passages += row.other_negatives
    return [passage for passage in passages if passage is not None]


def _check_found(found: np.ndarray, passages: Sequence[Passage], place: str, source: str) -> None:
    for passage in (passages[i] for i in np.flatnonzero(found == 0)[:1]):
        if not passage.passage_id:
            shown = " ".join(passage.text.split())[:50]
            raise DataError(
                f'{place} passage "{shown}": no id. Only a passage with an id has an embedding in {source}.'
            )
        raise DataError(
            f"{place} passage {passage.passage_id}: no embedding in {source}. Encode a collection that contains it."
        )
