"""Say what a search or an encoding left out: questions, short results, and texts that were cut."""

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
"""Memory of BM25 for a passage of 100 words, as measured."""


def describe_run(path: str | os.PathLike[str], run: Run, k: int) -> Iterator[str]:
    """Yield a line about a run, and one about the questions with fewer than k passages if there are any.

    >>> list(describe_run("run.trec", {"q1": {"a": 2.0, "b": 1.0}, "q2": {"a": 1.0}}, 2))
    ['run.trec: 2 questions, up to 2 passages each', '1 of 2 questions have fewer than 2 passages']
    """
    lengths = [len(scores) for scores in run.values()]
    yield f"{os.fspath(path)}: {len(run)} questions, up to {max(lengths, default=0)} passages each"
    if num_short := sum(length < k for length in lengths):
        yield f"{num_short} of {len(run)} questions have fewer than {k} passages"


def describe_cut(num_cut: int, total: int, unit: str, max_length: int) -> Iterator[str]:
    """Yield a line about the texts that are longer than the limit if there are any.

    >>> list(describe_cut(3, 12, "passages", 256))
    ['3 of 12 passages (25.0 %) are longer than 256 tokens, so their end is cut off']
    """
    if num_cut:
        share = f"{100 * num_cut / total:.1f} %"
        yield f"{num_cut} of {total} {unit} ({share}) are longer than {max_length} tokens, so their end is cut off"


def describe_cut_questions(embedder: Embedder, questions: Sequence[Question]) -> Iterator[str]:
    """Yield a line about the questions that are longer than the limit of a model if there are any."""
    num_cut = embedder.count_truncated([question.text for question in questions])
    return describe_cut(num_cut, len(questions), "questions", embedder.tokenize_texts.max_length)


def read_judged_questions(
    path: str | os.PathLike[str], qrels: str | os.PathLike[str] | None, *, tell: Callable[[str], object]
) -> list[Question]:
    """Read a file of questions, and return the questions that qrels judge.

    Args:
        path: The questions.
        qrels: Relevance judgments. With None all questions are returned.
        tell: Gets a line about the questions that are left out.

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
            f"{os.fspath(qrels)}: judges no question of {os.fspath(path)}. Give the qrels of these questions."
        )
    tell(f"{len(kept)} of {len(questions)} questions are in {qrels}, {len(questions) - len(kept)} are left out")
    if num_missing := len(judged) - len(kept):
        tell(f"{num_missing} questions of {qrels} are not in {path}")
    return kept


def tell_counts(collection: PassageCollection, tell: Callable[[str], object]) -> None:
    """Tell each kind of unusual passages in a collection, such as those without text, with their number."""
    for name, count in collection.counts.items():
        tell(f"{count} {name} in {collection.path}")


def tell_bm25_memory(num_passages: int, tell: Callable[[str], object], *, least: int = 0) -> None:
    """Tell how much memory BM25 will need, and warn if this machine has less.

    Args:
        num_passages: Passages to be searched.
        tell: Gets the line.
        least: Bytes below which nothing is told.
    """
    needed, available = num_passages * BM25_BYTES, read_available_memory()
    if needed >= least:
        tell(f"BM25 needs about {format_bytes(needed)} of memory for {num_passages:,} passages")
    if available is not None and needed > available:
        message = (
            f"{format_bytes(available)} of memory are available, and BM25 needs about {format_bytes(needed)}. "
            "Take a machine with more memory, or leave BM25 out (loop --bm25=false)."
        )
        warnings.warn(message, SettingsWarning, stacklevel=2)


def read_available_memory() -> int | None:
    """Return how many bytes a new process can use without swapping (MemAvailable of Linux). None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def format_bytes(count: int) -> str:
    """Return a number of bytes for people to read.

    >>> format_bytes(51_487_543_800), format_bytes(220_500)
    ('51.5 GB', '0.2 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def check_window(source: str, passage_id: str) -> None:
    """Check before a search by windows that a passage is one.

    Raises:
        DataError: The passage is no window.
    """
    if "#" not in passage_id:
        raise DataError(
            f"{source}: passage {passage_id} is no window of a document. Cut the passages (dpr-text windows), "
            "or leave out --max_passage_hits."
        )
