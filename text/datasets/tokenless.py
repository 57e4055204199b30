"""Find the questions and passages without tokens, before any batch is made.

An encoder would see only special tokens of such a text, for example of zero-width characters with BERT's vocabulary.
The tokenizer decides. Tokenizers keep letters and digits, so only the few texts without any are tokenized here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from text.datasets.dpr_file import WORD, DPRFile
from text.datasets.formats.dpr_record import Row
from text.records import Passage

_LETTERS = ["字", "ж", "م", "ก", "\U00010380", "\u3164"]
"""Letters of several scripts. A tokenizer without a token for unknown letters drops some of them."""
_ROWS_AT_ONCE = 256


class FindsEmpty(Protocol):
    """Knows which texts have no tokens, such as ``BiEncoderCollator``."""

    def find_empty_questions(self, questions: Sequence[str]) -> np.ndarray: ...
    def find_empty_passages(self, passages: Sequence[Passage]) -> np.ndarray: ...


class Tokenless(NamedTuple):
    """Texts of a file that have no tokens."""

    unusable: dict[int, str]
    """Rows that no batch can hold, and why."""
    positives: frozenset[int]
    """Keys by content of positives without tokens that stand beside others."""
    counts: Counter[str]
    """How many such positives, and negatives without tokens, usable rows have."""
    rows: list[int]
    """The usable rows that have them."""


class _Texts(NamedTuple):
    """Texts of a row."""

    question: str
    positives: list[Passage]
    negatives: list[Passage]
    """Those that may have no tokens."""


def find_tokenless(file: DPRFile, collate: FindsEmpty) -> Tokenless:
    """Return the rows and the passages of a file that have no tokens.

    Raises:
        DataError: The file has changed since it was checked.
    """
    drops_letters = bool(collate.find_empty_questions(_LETTERS).any())
    candidates = file.usable().tolist() if drops_letters else file.findings.wordless
    found, positives = Tokenless({}, frozenset(), Counter(), []), set[int]()
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
    return _Texts(row.question, row.positives, [each for each in negatives if every or not WORD.search(each.text)])


def _find_empty(rows: Sequence[_Texts], collate: FindsEmpty) -> Iterator[tuple[str, list[int], int]]:
    """Yield why each row is unusable, the keys of its positives without tokens, and the number of such negatives."""
    no_question = collate.find_empty_questions([row.question for row in rows])
    passages = [passage for row in rows for passage in (*row.positives, *row.negatives)]
    no_text = iter(collate.find_empty_passages(passages).tolist())
    for row, is_empty in zip(rows, no_question, strict=True):
        empty = [each.keys[1] for each, is_blank in zip(row.positives, no_text, strict=False) if is_blank]
        num_negatives = sum(islice(no_text, len(row.negatives)))
        all_empty = "no positive with tokens" if len(empty) == len(row.positives) else ""
        yield "question: no tokens" if is_empty else all_empty, empty, num_negatives
