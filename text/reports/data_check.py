"""Report of ``dpr-text check`` on a data set before training: plain text, and a plot of text lengths.

Repeated and shared questions are counted in all rows. Lengths and batches are measured on a sample of the training set.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from text.artifacts import atomic_write
from text.datasets import DPRDataPipe, find_same_data, hash_data, read_questions
from text.errors import DataError, explain_missing
from text.evaluation import has_answer
from text.records import Example
from text.runs.lengths import Lengths, get_length_bins
from text.transforms import Tokenizer, train_tokenizer
from text.words import has_unspaced_script

with explain_missing("report"):
    from matplotlib.figure import Figure

_VOCAB_SIZE = 8192
_SOFTWARE = "dpr-text check"
"""Value of the PNG field ``Software`` that identifies a plot of this command."""
_HEAD_BYTES = 1024


class SplitContents(NamedTuple):
    """Hashes of the questions and positives of a split."""

    questions: Counter[int]
    """Number of occurrences of each question. Case and whitespace are ignored."""
    positives: np.ndarray
    """(M, 2) int64. ``Passage.keys`` of the distinct positives."""


def read_contents(pipe: DPRDataPipe) -> SplitContents:
    """Return the questions and positives of every usable row of a split."""
    indexes = [file.index for file in pipe.files]
    questions = Counter(key for index in indexes for key in index.questions[index.has_row].tolist())
    return SplitContents(questions, np.unique(np.concatenate([index.positives for index in indexes]), axis=0))


def count_shared_positives(one: SplitContents, other: SplitContents) -> int:
    """Return how many positives of one split are also positives of the other, by id or by title and text."""
    is_shared = np.isin(one.positives, other.positives).any(axis=1)
    return len(np.unique(one.positives[is_shared, 0]))


def train_sample_tokenizer(batches: Sequence[Sequence[Example]]) -> Tokenizer:
    """Train a tokenizer on the texts of a sample of batches."""
    examples = [example for batch in batches for example in batch]
    passages = (passage for example in examples for passage in (example.positives[0], *example.hard_negatives))
    return train_tokenizer([*(e.question for e in examples), *(passage.text for passage in passages)], _VOCAB_SIZE)


def format_rows(pipes: Mapping[str, DPRDataPipe], contents: Mapping[str, SplitContents]) -> list[str]:
    """Return lines with the counts of each split: questions, repeated questions, skipped rows and other findings."""
    names = dict.fromkeys(name for pipe in pipes.values() for name in pipe.counts)
    reasons = dict.fromkeys(row.reason for pipe in pipes.values() for row in pipe.skipped)
    skipped = {split: Counter(row.reason for row in pipe.skipped) for split, pipe in pipes.items()}
    return [
        _format_line("", *pipes),
        _format_line("questions", *(pipe.num_rows for pipe in pipes.values())),
        _format_line("repeated questions", *(c.questions.total() - len(c.questions) for c in contents.values())),
        *(_format_line(f"rows left out: {reason}", *(skipped[split][reason] for split in pipes)) for reason in reasons),
        *(_format_line(name, *(pipe.counts[name] for pipe in pipes.values())) for name in names),
    ]


def format_overlaps(contents: Mapping[str, SplitContents]) -> list[str]:
    """Return lines with the number of questions and positives that each pair of splits shares.

    Shared questions make the validation and test metrics too high.
    """
    pairs = list(combinations(contents, 2))
    if not pairs:
        return []
    lines = ["", _format_line("in both", *(f"{a}, {b}" for a, b in pairs))]
    questions = (len(contents[a].questions.keys() & contents[b].questions.keys()) for a, b in pairs)
    positives = (count_shared_positives(contents[b], contents[a]) for a, b in pairs)
    return [*lines, _format_line("questions", *questions), _format_line("positives", *positives)]


def format_lengths(lengths: Sequence[Lengths]) -> list[str]:
    """Return lines with the median, 95th percentile and maximum of the token counts, and the truncated share."""
    lines = ["", _format_line("tokens of the train texts", "median", "95 %", "longest", "limit", "truncated")]
    for each in lengths:
        median, most, longest = np.percentile(each.tokens, [50, 95, 100]).astype(int)
        lines.append(_format_line(each.kind, median, most, longest, each.limit, f"{each.truncated_share:.2%}"))
    return lines


def format_batches(batches: Sequence[Sequence[Example]], batch_size: int) -> list[str]:
    """Return lines with the mean number of passages and of false negatives in a training batch.

    Args:
        batches: A sample of batches. Batches of fewer than ``batch_size`` questions count only if there are no others.
        batch_size: Number of questions in a complete batch.
    """
    complete = [batch for batch in batches if len(batch) == batch_size] or batches
    known, likely = np.mean([count_false_negatives(batch) for batch in complete], axis=0)
    num_passages = np.mean([sum(1 + len(example.hard_negatives) for example in batch) for batch in complete])
    return [
        "",
        f"a training batch: {len(complete[0])} questions, each compared with {num_passages:.0f} passages; "
        f"the loss is {math.log(num_passages):.2f} if all scores are equal",
        _format_line("  known positives of other questions, excluded from the negatives", f"{known:.2f}"),
        _format_line("  other negatives that contain an answer (possible false negatives)", f"{likely:.2f}"),
        *_format_answers([example for batch in complete for example in batch]),
        "",
    ]


def _format_answers(examples: Sequence[Example]) -> list[str]:
    """Return lines with the shares of questions for which the false negatives are less reliable or unknown."""
    shares = {
        "  questions with answers in scripts without spaces, matched as substrings": np.mean(
            [any(map(has_unspaced_script, example.answers)) for example in examples]
        ),
        "  questions without answers, not checked for false negatives": np.mean(
            [not example.answers for example in examples]
        ),
    }
    return [_format_line(name, f"{share:.0%}") for name, share in shares.items() if share]


def count_false_negatives(batch: Sequence[Example]) -> tuple[int, int]:
    """Count pairs of a question and another question's passage that may answer it.

    Returns:
        The number of pairs whose passage is a known positive of the question, which training excludes. Then the number
        of other pairs whose passage contains an answer to the question, which training uses as negatives.
    """
    known = likely = 0
    passages = [(i, p, p.keys) for i, e in enumerate(batch) for p in (e.positives[0], *e.hard_negatives)]
    for i, example in enumerate(batch):
        known_keys = (*(passage.keys for passage in example.positives), *(example.same_question_positives or ()))
        ids, contents = zip(*known_keys, strict=True)
        # An answer without words would match every passage.
        answers = [answer for answer in example.answers if not has_answer([answer], "")]
        for owner, passage, (by_id, by_content) in passages:
            if owner != i:
                is_known = by_id in ids or by_content in contents
                known += is_known
                likely += not is_known and has_answer(answers, passage.text)
    return known, likely


def find_remarks(pipes: Mapping[str, DPRDataPipe], contents: Mapping[str, SplitContents]) -> Iterator[str]:
    """Yield a line for each problem to solve before training."""
    for pipe in pipes.values():
        yield from _find_question_errors([file.path for file in pipe.files])
    yield from (f"note: {sentence}" for sentence in find_same_data(hash_data(pipes)))
    for split in (name for name in contents if name != "train"):
        shared = len(contents["train"].questions.keys() & contents[split].questions.keys())
        if shared:
            yield f"note: {shared} questions of {split} are also in train. The metrics on {split} will be too high."
        shared = count_shared_positives(contents[split], contents["train"])
        if shared:
            share = shared / len(np.unique(contents[split].positives[:, 0]))
            yield (
                f"note: {shared} positives of {split} ({share:.0%}) are also positives in train. An improvement "
                f"on {split} may come from these passages alone. Check the questions without such positives, too."
            )
    if not pipes["train"].has_negatives:
        yield "note: no question of train has a hard negative. Training will use only in-batch negatives."


def _find_question_errors(paths: Sequence[str]) -> Iterator[str]:
    """Yield a line for each file that training accepts but ``dpr-text search`` and ``mine`` refuse."""
    for path in paths:
        try:
            read_questions(path)
        except DataError as error:
            yield f"note: {error} dpr-text search and mine refuse this file."


def check_picture(path: str | os.PathLike[str]) -> None:
    """Check that the plot replaces no file except an earlier plot of ``dpr-text check``.

    Raises:
        FileExistsError: Another kind of file exists at this path.
    """
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if f"Software\0{_SOFTWARE}".encode() not in file.read(_HEAD_BYTES):
                reason = "already exists, and dpr-text check did not write it. Choose another --picture, or remove it."
                raise FileExistsError(f"{os.fspath(path)} {reason}")


def draw_histograms(path: str | os.PathLike[str], lengths: Sequence[Lengths]) -> None:
    """Write a PNG with a histogram of the token counts and the limit of each kind of text."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(lengths)), lengths, strict=True):
        kind, tokens, limit = each
        axes.hist(tokens, bins=get_length_bins(tokens.max()), color="#4477aa")
        axes.axvline(limit, color="#cc3311", label=f"limit {limit}: {each.truncated_share:.2%} are longer")
        axes.set_title(f"{len(tokens):,} {kind}", loc="left")
        axes.set(xlabel="tokens, special tokens included", ylabel="texts")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)  # above the axes, off the bars
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": _SOFTWARE})


def _format_line(name: str, *values: object) -> str:
    shown = (f"{value:,}" if isinstance(value, int | np.integer) else str(value) for value in values)
    return f"{name:<50}" + "".join(f"{value:>14}" for value in shown)
