"""Say what a search or an encoding left out: short results, and texts that were cut."""

from __future__ import annotations

import os
from collections.abc import Iterator

from text.evaluation import Run


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
