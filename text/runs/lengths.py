"""Token counts of the texts of a data set, and the limits that truncate these texts.

Training measures them on its first batches and writes ``lengths.json``. The run report and the data check show them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from text.artifacts import write_json
from text.bundle import BiEncoderBundle
from text.datasets import DPRDataPipe
from text.records import Example, TokenizedExample
from text.transforms import Tokenize, Tokenizer, title_and_text

NO_LIMIT = 1 << 30
"""Maximum number of tokens where no text is to be truncated."""
_TEXTS_PER_CALL = 256
"""Texts that are tokenized in one call."""
_MAX_BINS = 60
_MEASURED_QUESTIONS = 1000
"""Questions that training measures, with their passages."""


class Lengths(NamedTuple):
    """Token counts of the texts of one kind before truncation."""

    kind: str
    """questions or passages."""
    tokens: np.ndarray
    """Tokens of each text, special tokens included."""
    limit: int
    """Maximum number of tokens that the encoder gets."""


def sample_batches(pipe: DPRDataPipe, num_questions: int) -> list[list[Example]]:
    """Return the first batches of a pipe that together hold at least ``num_questions`` questions."""
    return list(islice(pipe, math.ceil(num_questions / pipe.batch_size)))


def measure_lengths(
    tokenizer: Tokenizer,
    batches: Sequence[Sequence[Example | TokenizedExample]],
    limits: tuple[int, int],
    prompts: tuple[str, str] = ("", ""),
    titles: str = "pair",
) -> list[Lengths]:
    """Count the tokens of the questions and passages of training batches.

    Args:
        tokenizer: Tokenizer of the encoders.
        batches: Training batches.
        limits: Maximum number of tokens of a question and of a passage.
        prompts: Text before every question and before every passage.
        titles: "pair" or "join": how a title and a text become one input.

    Returns:
        The lengths of the questions and the lengths of the passages.
    """
    questions: list[Any] = [example.question for batch in batches for example in batch]
    passages: list[Any] = [
        title_and_text(passage, titles)
        for batch in batches
        for example in batch
        for passage in (example.positives[0], *example.hard_negatives)
    ]
    return [
        Lengths(kind, _count_tokens(Tokenize(tokenizer, NO_LIMIT, prompt), texts), limit)
        for kind, texts, limit, prompt in zip(
            ("questions", "passages"), (questions, passages), limits, prompts, strict=True
        )
    ]


def write_lengths(path: str | os.PathLike[str], lengths: Sequence[Lengths]) -> None:
    """Write a JSON file with the limit of each kind of text and the number of texts for each number of tokens."""
    content = {}
    for kind, tokens, limit in lengths:
        counts = Counter(tokens.tolist())
        content[kind] = {"limit": limit, "texts_by_tokens": {str(n): count for n, count in sorted(counts.items())}}
    write_json(path, content)


def write_training_lengths(path: str | os.PathLike[str], pipe: DPRDataPipe, bundle: BiEncoderBundle) -> None:
    """Measure the texts of the first training batches, as a model reads them, and write their lengths."""
    limits = (bundle.question_max_length, bundle.passage_max_length)
    prompts = (
        bundle.encoder("question").config.find_prompt("question"),
        bundle.encoder("passage").config.find_prompt("passage"),
    )
    batches = sample_batches(pipe, _MEASURED_QUESTIONS)
    write_lengths(path, measure_lengths(bundle.tokenizer, batches, limits, prompts, bundle.titles))


def read_lengths(path: str | os.PathLike[str]) -> list[Lengths]:
    """Read a file of ``write_lengths``. The token counts come back in ascending order."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    lengths = []
    for kind, entry in content.items():
        counts = entry["texts_by_tokens"]
        lengths.append(Lengths(kind, np.repeat([*map(int, counts)], [*counts.values()]), entry["limit"]))
    return lengths


def length_bins(longest: int) -> list[float]:
    """Return the edges of at most 60 histogram bins for lengths from 0 to ``longest``.

    Each bin covers the same number of whole numbers. Other widths would give some bins more numbers than others.
    """
    width = math.ceil((longest + 1) / _MAX_BINS)
    return np.arange(-0.5, longest + width, width).tolist()


def _count_tokens(tokenize: Tokenize, texts: Sequence[Any]) -> np.ndarray:
    parts = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
    return np.concatenate([tokenize(part).attention_mask.sum(1).numpy() for part in parts])
