"""Lines about the inputs and results of a search: missing questions, short results, truncated texts, and memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from text.datasets import PassageCollection, Question, read_questions
from text.errors import DataError, SettingsWarning
from text.evaluation import Run, read_qrels
from text.retrieval.embedder import Embedder

BM25_BYTES = 2450
"""Memory that BM25 needs for a passage of 100 words, as measured."""
_MUCH_MEMORY = 1 << 30
"""Smallest number of bytes for which the memory of BM25 is logged."""


def describe_run(path: str | os.PathLike[str], run: Run, k: int) -> Iterator[str]:
    """Yield a line with the size of a run, and a line about questions with fewer than k passages if there are any.

    >>> list(describe_run("run.trec", {"q1": {"a": 2.0, "b": 1.0}, "q2": {"a": 1.0}}, 2))
    ['run.trec: 2 questions, up to 2 passages each', '1 of 2 questions have fewer than 2 passages']
    """
    lengths = [len(scores) for scores in run.values()]
    yield f"{os.fspath(path)}: {len(run)} questions, up to {max(lengths, default=0)} passages each"
    if num_short := sum(length < k for length in lengths):
        yield f"{num_short} of {len(run)} questions have fewer than {k} passages"


def describe_truncated(num_truncated: int, total: int, unit: str, max_length: int) -> Iterator[str]:
    """Yield a line with the number of truncated texts if there are any.

    >>> list(describe_truncated(3, 12, "passages", 256))
    ['3 of 12 passages (25.0 %) are longer than 256 tokens and were truncated']
    """
    if num_truncated:
        share = f"{100 * num_truncated / total:.1f} %"
        yield f"{num_truncated} of {total} {unit} ({share}) are longer than {max_length} tokens and were truncated"


def describe_truncated_questions(embedder: Embedder, questions: Sequence[Question]) -> Iterator[str]:
    """Yield a line with the number of questions that a model truncates if there are any."""
    num_truncated = embedder.count_truncated([question.text for question in questions])
    return describe_truncated(num_truncated, len(questions), "questions", embedder.tokenize_texts.max_length)


def read_judged_questions(
    path: str | os.PathLike[str], qrels: str | os.PathLike[str] | None, *, log: Callable[[str], object]
) -> list[Question]:
    """Read a file of questions, and return the questions that have relevance judgments.

    Args:
        path: The file of questions.
        qrels: The file of relevance judgments. With None, all questions are returned.
        log: Called with a line about the questions that are skipped.

    Raises:
        DataError: A file is malformed, or the qrels judge none of the questions.
        OSError: A file cannot be read.
    """
    questions = read_questions(path)
    if qrels is None:
        return questions
    judged = read_qrels(qrels)
    kept = [question for question in questions if question.question_id in judged]
    if not kept:
        raise DataError(
            f"{os.fspath(qrels)}: has no judgments for the questions of {os.fspath(path)}. Use the qrels of this file."
        )
    log(f"{len(kept)} of {len(questions)} questions have judgments in {qrels}, {len(questions) - len(kept)} skipped")
    if num_missing := len(judged) - len(kept):
        log(f"{num_missing} questions in {qrels} are not in {path}")
    return kept


def log_unusual_passages(collection: PassageCollection, log: Callable[[str], object]) -> None:
    """Log the number of unusual passages in a collection by kind, such as passages without text."""
    for name, count in collection.counts.items():
        log(f"{count} {name} in {collection.path}")


def log_bm25_memory(num_passages: int, log: Callable[[str], object]) -> None:
    """Log how much memory BM25 will need if it is a lot, and warn if less is available.

    Args:
        num_passages: Number of passages to search in memory.
        log: Called with the line.
    """
    needed, available = num_passages * BM25_BYTES, read_available_memory()
    if needed >= _MUCH_MEMORY:
        log(f"BM25 needs about {format_bytes(needed)} of memory for {num_passages:,} passages")
    if available is not None and needed > available:
        message = (
            f"BM25 needs about {format_bytes(needed)} of memory, but only {format_bytes(available)} are available. "
            "Use an index on disk: --bm25_index=FOLDER."
        )
        warnings.warn(message, SettingsWarning, stacklevel=2)


def read_available_memory() -> int | None:
    """Return the bytes that a process can use without swapping (MemAvailable on Linux). None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def format_bytes(count: int) -> str:
    """Return a human-readable number of bytes.

    >>> format_bytes(51_487_543_800), format_bytes(220_500)
    ('51.5 GB', '0.2 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def check_window(source: str, passage_id: str) -> None:
    """Check that a passage is a window of a document, before a search that scores documents by their windows.

    Raises:
        DataError: The passage is not a window.
    """
    if "#" not in passage_id:
        raise DataError(
            f"{source}: passage {passage_id} is not a window of a document. Cut the documents into windows first "
            "(dpr-text windows), or leave out --max_passage_hits."
        )
