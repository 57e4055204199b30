"""Find the rows whose question or positives have no tokens, before any batch is made.

An encoder would see only special tokens of such a text, for example of zero-width characters with BERT's vocabulary.
The tokenizer decides. Tokenizers keep letters and digits, so only the few texts without any are tokenized here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from text.datasets.dpr_file import DPRFile
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
    num_left_out: int
    """How often such a positive stands in a usable row."""


def find_tokenless(file: DPRFile, collate: FindsEmpty) -> Tokenless:
    """Return the rows and the positives of a file that have no tokens.

    Raises:
        DataError: The file has changed since it was checked.
    """
    drops_letters = bool(collate.find_empty_questions(_LETTERS).any())
    candidates = file.usable().tolist() if drops_letters else file.findings.wordless
    unusable, keys, num_left_out = {}, set[int](), 0
    with file.open() as reader:
        for start in range(0, len(candidates), _ROWS_AT_ONCE):
            numbers = candidates[start : start + _ROWS_AT_ONCE]
            rows = [reader.read(number)[:3] for number in numbers]
            no_question = collate.find_empty_questions([question for question, _, _ in rows])
            no_text = iter(collate.find_empty_passages([passage for *_, positives in rows for passage in positives]))
            for number, (_, _, positives), is_empty in zip(numbers, rows, no_question, strict=True):
                empty = [passage.keys[1] for passage, is_blank in zip(positives, no_text, strict=False) if is_blank]
                if is_empty:
                    unusable[number] = "question: no tokens"
                elif len(empty) == len(positives):
                    unusable[number] = "no positive with tokens"
                else:
                    keys.update(empty)
                    num_left_out += len(empty)
    return Tokenless(unusable, frozenset(keys), num_left_out)
