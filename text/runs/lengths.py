"""Token counts of the texts of a data set, and the limits that truncate these texts.

Training measures them on its first batches and writes ``lengths.json``. The run report and the data check show them.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from text.artifacts import read_json, write_json
from text.bundle import BiEncoderBundle
from text.datasets import DPRDataPipe
from text.errors import ArtifactError, SettingsWarning
from text.records import Example, TokenizedExample
from text.transforms import Tokenize, Tokenizer, title_and_text

NO_LIMIT = 1 << 30
"""Maximum number of tokens where no text is to be truncated."""
_TEXTS_PER_CALL = 256
"""Texts that are tokenized in one call."""
_MAX_BINS = 60
_MEASURED_QUESTIONS = 1000
"""Questions that training measures, with their passages."""
_MAX_TRUNCATED = 0.1
"""Share of truncated texts above which there is a warning."""
_MAX_TEXTS = 10_000_000
"""Texts of a file that is read. Training measures far fewer."""


class Lengths(NamedTuple):
    """Token counts of the texts of one kind before truncation."""

    kind: str
    """questions or passages."""
    tokens: np.ndarray
    """Tokens of each text, special tokens included."""
    limit: int
    """Maximum number of tokens that the encoder gets."""

    @property
    def truncated_share(self) -> float:
        """Share of the texts that are longer than the limit."""
        return float((self.tokens > self.limit).mean())


class _KindLengths(NamedTuple):
    """The texts of one kind in ``lengths.json``."""

    limit: int
    texts_by_tokens: dict[str, int]
    """Number of texts for each number of tokens."""


class _LengthsFile(NamedTuple):
    """Content of ``lengths.json``."""

    questions: _KindLengths
    passages: _KindLengths


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


def warn_truncated(lengths: Sequence[Lengths], most: int | None = None) -> None:
    """Warn for each kind of text of which more than a tenth is truncated, with the flags that mend it.

    Args:
        lengths: The lengths of texts.
        most: Maximum number of tokens that the encoder takes, if it is known.
    """
    for each in lengths:
        if (share := each.truncated_share) > _MAX_TRUNCATED:
            advice = _advise_limit(*each, most)
            message = f"{share:.0%} of the {each.kind} are longer than {each.limit} tokens and lose their end. {advice}"
            warnings.warn(message, SettingsWarning, stacklevel=2)


def _advise_limit(kind: str, tokens: np.ndarray, limit: int, most: int | None) -> str:
    """Return what keeps the ends of more texts."""
    flag, needed = f"--{kind.removesuffix('s')}_max_length", int(np.percentile(tokens, 95, method="inverted_cdf"))
    advice = "The encoder takes no more."
    if most is None or needed <= most:
        advice = f"{flag}={needed} keeps 95 % of them whole."
    elif limit < most:
        advice = f"{flag}={most} is the most that the encoder takes."
    return f"{advice} dpr-text windows makes shorter passages." if kind == "passages" else advice


def write_training_lengths(path: str | os.PathLike[str], pipe: DPRDataPipe, bundle: BiEncoderBundle) -> None:
    """Measure the texts of the first training batches, as a model reads them, and write their lengths.

    Warn if many of them are truncated.
    """
    limits = (bundle.question_max_length, bundle.passage_max_length)
    prompts = (
        bundle.encoder("question").config.find_prompt("question"),
        bundle.encoder("passage").config.find_prompt("passage"),
    )
    batches = sample_batches(pipe, _MEASURED_QUESTIONS)
    lengths = measure_lengths(bundle.tokenizer, batches, limits, prompts, bundle.titles)
    write_lengths(path, lengths)
    config = bundle.encoder("passage").config
    warn_truncated(lengths, config.max_position_embeddings - config.first_position)


def read_lengths(path: str | os.PathLike[str]) -> list[Lengths]:
    """Read a file of ``write_lengths``. The token counts come back in ascending order.

    Raises:
        ArtifactError: The file is damaged, or another kind of file.
    """
    content = read_json(path, _LengthsFile)
    return [_expand(path, kind, entry) for kind, entry in content._asdict().items()]


def _expand(path: str | os.PathLike[str], kind: str, entry: _KindLengths) -> Lengths:
    counts = entry.texts_by_tokens
    if not all(re.fullmatch(r"\d{1,9}", tokens) and count > 0 for tokens, count in counts.items()) or entry.limit < 1:
        raise ArtifactError(f"{os.fspath(path)}: {kind} has a limit or counts that are no positive numbers.")
    if not 0 < sum(counts.values()) <= _MAX_TEXTS:
        raise ArtifactError(f"{os.fspath(path)}: {kind}.texts_by_tokens has no texts, or more than {_MAX_TEXTS}.")
    return Lengths(kind, np.repeat([*map(int, counts)], [*counts.values()]), entry.limit)


def length_bins(longest: int) -> list[float]:
    """Return the edges of at most 60 histogram bins for lengths from 0 to ``longest``.

    Each bin covers the same number of whole numbers. Other widths would give some bins more numbers than others.
    """
    width = math.ceil((longest + 1) / _MAX_BINS)
    return np.arange(-0.5, longest + width, width).tolist()


def _count_tokens(tokenize: Tokenize, texts: Sequence[Any]) -> np.ndarray:
    parts = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
    return np.concatenate([tokenize(part).attention_mask.sum(1).numpy() for part in parts])
