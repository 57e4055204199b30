"""Token counts of the texts in a data set, and the limits at which texts are truncated.

Training measures the texts of its first batches and writes ``lengths.json``. The run report and ``dpr-text check`` show
these counts.
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
"""Maximum number of tokens that truncates no text."""
_TEXTS_PER_CALL = 256
"""Number of texts to tokenize in one call."""
_MAX_BINS = 60
_MEASURED_QUESTIONS = 1000
"""Number of questions that training measures, with their passages."""
_MAX_TRUNCATED = 0.1
"""Share of truncated texts above which training warns."""
_MAX_TEXTS = 10_000_000
"""Maximum number of texts in a file. Training measures far fewer."""


class Lengths(NamedTuple):
    """Token counts of questions or passages before truncation."""

    kind: str
    """"questions" or "passages"."""
    tokens: np.ndarray
    """(N,) int. Number of tokens of each text, with special tokens."""
    limit: int
    """Maximum number of tokens that the encoder receives."""

    @property
    def truncated_share(self) -> float:
        """Share of the texts that are longer than the limit."""
        return float((self.tokens > self.limit).mean())


class _KindLengths(NamedTuple):
    """Questions or passages in ``lengths.json``."""

    limit: int
    texts_by_tokens: dict[str, int]
    """Number of texts by number of tokens."""


class _LengthsFile(NamedTuple):
    """Content of ``lengths.json``."""

    questions: _KindLengths
    passages: _KindLengths


def sample_batches(pipe: DPRDataPipe, num_questions: int) -> list[list[Example]]:
    """Return the first batches of a pipe, enough for at least ``num_questions`` questions."""
    return list(islice(pipe, math.ceil(num_questions / pipe.batch_size)))


def measure_lengths(
    tokenizer: Tokenizer,
    batches: Sequence[Sequence[Example | TokenizedExample]],
    limits: tuple[int, int],
    prompts: tuple[str, str] = ("", ""),
    titles: str = "pair",
) -> list[Lengths]:
    """Count the tokens of questions, first positives and hard negatives of training batches.

    Args:
        tokenizer: Tokenizer of the encoders.
        batches: Training batches.
        limits: Maximum number of tokens of a question and of a passage.
        prompts: Text to prepend to every question and to every passage.
        titles: "pair" or "join": how title and text are combined into one input.

    Returns:
        The lengths of the questions, then the lengths of the passages.
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
    """Write ``lengths.json``: for questions and passages, the limit and the number of texts by number of tokens."""
    content = {}
    for kind, tokens, limit in lengths:
        counts = Counter(tokens.tolist())
        content[kind] = {"limit": limit, "texts_by_tokens": {str(n): count for n, count in sorted(counts.items())}}
    write_json(path, content)


def warn_truncated(lengths: Sequence[Lengths], encoder_limit: int | None = None) -> None:
    """Warn if more than 10 % of the questions or passages are truncated, and name the flag to change.

    Args:
        lengths: Lengths of questions and passages.
        encoder_limit: Maximum number of tokens that the encoder supports. None if unknown.
    """
    for each in lengths:
        if (share := each.truncated_share) > _MAX_TRUNCATED:
            advice = _suggest_limit(*each, encoder_limit)
            message = f"{share:.0%} of the {each.kind} are longer than {each.limit} tokens and are truncated. {advice}"
            warnings.warn(message, SettingsWarning, stacklevel=2)


def _suggest_limit(kind: str, tokens: np.ndarray, limit: int, encoder_limit: int | None) -> str:
    """Return a sentence that suggests how to truncate fewer texts."""
    flag, needed = f"--{kind.removesuffix('s')}_max_length", int(np.percentile(tokens, 95, method="inverted_cdf"))
    advice = "The encoder does not support longer texts."
    if encoder_limit is None or needed <= encoder_limit:
        advice = f"{flag}={needed} would keep 95 % of them complete."
    elif limit < encoder_limit:
        advice = f"{flag}={encoder_limit} is the maximum of the encoder."
    return f"{advice} dpr-text windows splits long passages." if kind == "passages" else advice


def write_training_lengths(path: str | os.PathLike[str], pipe: DPRDataPipe, bundle: BiEncoderBundle) -> None:
    """Measure the texts of the first training batches, with the prompts of the model, and write their lengths.

    Warn if many texts are truncated.
    """
    limits = (bundle.question_max_length, bundle.passage_max_length)
    prompts = (
        bundle.encoder("question").find_prompt("question"),
        bundle.encoder("passage").find_prompt("passage"),
    )
    batches = sample_batches(pipe, _MEASURED_QUESTIONS)
    lengths = measure_lengths(bundle.tokenizer, batches, limits, prompts, bundle.titles)
    write_lengths(path, lengths)
    warn_truncated(lengths, bundle.encoder("passage").num_positions)


def read_lengths(path: str | os.PathLike[str]) -> list[Lengths]:
    """Read ``lengths.json``. The token counts are returned in ascending order.

    Raises:
        ArtifactError: The file is damaged or of another kind.
    """
    content = read_json(path, _LengthsFile)
    return [_expand(path, kind, entry) for kind, entry in content._asdict().items()]


def _expand(path: str | os.PathLike[str], kind: str, entry: _KindLengths) -> Lengths:
    counts = entry.texts_by_tokens
    if not all(re.fullmatch(r"\d{1,9}", tokens) and count > 0 for tokens, count in counts.items()) or entry.limit < 1:
        raise ArtifactError(f"{os.fspath(path)}: {kind} has a limit or count that is not a positive number.")
    if not 0 < sum(counts.values()) <= _MAX_TEXTS:
        raise ArtifactError(f"{os.fspath(path)}: {kind}.texts_by_tokens must have 1 to {_MAX_TEXTS} texts.")
    return Lengths(kind, np.repeat([*map(int, counts)], [*counts.values()]), entry.limit)


def get_length_bins(longest: int) -> list[float]:
    """Return the edges of at most 60 histogram bins for lengths from 0 to ``longest``.

    Every bin covers the same number of integers, so that no bin is higher only because of its width.
    """
    width = math.ceil((longest + 1) / _MAX_BINS)
    return np.arange(-0.5, longest + width, width).tolist()


def _count_tokens(tokenize: Tokenize, texts: Sequence[Any]) -> np.ndarray:
    parts = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
    return np.concatenate([tokenize(part).attention_mask.sum(1).numpy() for part in parts])
