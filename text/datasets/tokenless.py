"""Search for questions and passages without tokens, before training starts.

The encoder input for such a text, for example one of zero-width characters with BERT's vocabulary, would only hold
special tokens. Tokenizers keep letters and digits, so only the few texts without any are tokenized here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from text.datasets.dpr_file import LETTER_OR_DIGIT, DPRFile
from text.datasets.formats.dpr_record import Row
from text.records import Passage

_LETTERS = ["字", "ж", "م", "ก", "\U00010380", "\u3164"]
"""Letters of several scripts. A tokenizer without an unknown token drops some of them."""
_ROWS_AT_ONCE = 256


class EmptyTextFinder(Protocol):
    """Interface of an object that finds texts without tokens, such as ``BiEncoderCollator``."""

    def find_empty_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return a (B,) bool array, True for each question without tokens."""
        ...

    def find_empty_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return a (P,) bool array, True for each passage whose text has no tokens."""
        ...


class TokenlessTexts(NamedTuple):
    """Texts of a file that have no tokens."""

    unusable: dict[int, str]
    """Reason of each row that is unusable because its question or all its positives have no tokens."""
    positives: frozenset[int]
    """Content keys of the positives without tokens in usable rows."""
    counts: Counter[str]
    """Number of positives and of negatives without tokens in usable rows."""
    rows: list[int]
    """Usable rows that have passages without tokens."""


class _Texts(NamedTuple):
    """Texts of a row to check."""

    question: str
    positives: list[Passage]
    negatives: list[Passage]
    """Negatives that may have no tokens."""


def find_tokenless(file: DPRFile, collate: EmptyTextFinder) -> TokenlessTexts:
    """Return the questions and passages of a file that have no tokens.

    Args:
        file: Checked file.
        collate: Collator with the tokenizer.

    Raises:
        DataError: The file has changed since it was checked.
    """
    drops_letters = bool(collate.find_empty_questions(_LETTERS).any())
    candidates = file.find_usable_rows().tolist() if drops_letters else file.findings.wordless
    found, positives = TokenlessTexts({}, frozenset(), Counter(), []), set[int]()
    with file.open() as reader:
        for start in range(0, len(candidates), _ROWS_AT_ONCE):
            numbers = candidates[start : start + _ROWS_AT_ONCE]
            texts = [_read_texts(reader.read(number), every=drops_letters) for number in numbers]
            for number, (reason, empty, num_negatives) in zip(numbers, _find_empty(texts, collate), strict=True):
                if reason:
                    found.unusable[number] = reason
                elif empty or num_negatives:
                    found.rows.append(number)
                    positives.update(empty)
                    found.counts["positives without tokens, left out"] += len(empty)
                    found.counts["negatives without tokens, left out"] += num_negatives
    return found._replace(positives=frozenset(positives))


def _read_texts(row: Row, *, every: bool) -> _Texts:
    negatives = [each for each in (*row.hard_negatives, *row.other_negatives) if each is not None]
    return _Texts(
        row.question, row.positives, [each for each in negatives if every or not LETTER_OR_DIGIT.search(each.text)]
    )


def _find_empty(rows: Sequence[_Texts], collate: EmptyTextFinder) -> Iterator[tuple[str, list[int], int]]:
    """Yield for each row: why it is unusable, keys of positives without tokens, number of negatives without tokens."""
    no_question = collate.find_empty_questions([row.question for row in rows])
    passages = [passage for row in rows for passage in (*row.positives, *row.negatives)]
    no_text = iter(collate.find_empty_passages(passages).tolist())
    for row, is_empty in zip(rows, no_question, strict=True):
        empty = [each.keys[1] for each, is_blank in zip(row.positives, no_text, strict=False) if is_blank]
        num_negatives = sum(islice(no_text, len(row.negatives)))
        all_empty = "no positive with tokens" if len(empty) == len(row.positives) else ""
        yield "question: no tokens" if is_empty else all_empty, empty, num_negatives
