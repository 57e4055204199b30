"""How many tokens the texts of a data set have, beside the limits that cut them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from text.artifacts import write_json
from text.datasets import DPRDataPipe
from text.records import Example
from text.transforms import Tokenize, title_and_text

_TOGETHER = 256
"""Texts that are tokenized in one call."""


class Lengths(NamedTuple):
    """Tokens of the texts of one kind, special ones included, before truncation."""

    kind: str
    tokens: np.ndarray
    limit: int


def sample(pipe: DPRDataPipe, num_questions: int) -> list[list[Example]]:
    """The first batches of a pipe, shuffled in training."""
    return list(islice(pipe, math.ceil(num_questions / pipe.batch_size)))


def measure(
    tokenizer: Tokenizer,
    batches: Sequence[list[Example]],
    limits: tuple[int, int],
    prompts: tuple[str, str] = ("", ""),
    titles: str = "pair",
) -> list[Lengths]:
    """Lengths of the texts that training batches take.

    Args:
        tokenizer: Any.
        batches: Of Examples, or of TokenizedExamples.
        limits: Most tokens of a question, and of a passage.
        prompts: Put before each.
        titles: "pair" or "join".
    """
    questions: list[Any] = [example.question for batch in batches for example in batch]
    passages: list[Any] = [
        title_and_text(passage, titles)
        for batch in batches
        for example in batch
        for passage in (example.positives[0], *example.hard_negatives)
    ]
    return [
        Lengths(kind, _count(Tokenize(tokenizer, 1 << 30, prompt), texts), limit)
        for kind, texts, limit, prompt in zip(
            ("questions", "passages"), (questions, passages), limits, prompts, strict=True
        )
    ]


def write_lengths(path: Path, lengths: Sequence[Lengths]) -> None:
    """Writes how many texts have how many tokens, by kind, and the limits."""
    write_json(
        path,
        {
            kind: {"limit": limit, "texts_by_tokens": {str(n): count for n, count in sorted(_counted(tokens).items())}}
            for kind, tokens, limit in lengths
        },
    )


def read_lengths(path: Path) -> list[Lengths]:
    """What ``write_lengths`` wrote."""
    return [
        Lengths(kind, np.repeat([*map(int, of_kind["texts_by_tokens"])], [*of_kind["texts_by_tokens"].values()]), limit)
        for kind, of_kind in json.loads(path.read_text(encoding="utf-8")).items()
        for limit in (of_kind["limit"],)
    ]


def bins(longest: int) -> list[float]:
    """Edges of at most 60 bins of whole tokens, else some would hold more numbers than others."""
    width = math.ceil((longest + 1) / 60)
    return np.arange(-0.5, longest + width, width).tolist()


def _count(tokenize: Tokenize, texts: Sequence[Any]) -> np.ndarray:
    parts = [texts[start : start + _TOGETHER] for start in range(0, len(texts), _TOGETHER)]
    return np.concatenate([tokenize(part).attention_mask.sum(1).numpy() for part in parts])


def _counted(tokens: np.ndarray) -> Counter[int]:
    return Counter(tokens.tolist())
