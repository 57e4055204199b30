"""The check of a data set before a long training run: a page of plain text, and a picture of text lengths.

Repeated and shared questions come from the index of every row. Lengths and batches are measured on a sample of train.
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
from text.words import has_unspaced

with explain_missing("report"):
    from matplotlib.figure import Figure

_VOCAB_SIZE = 8192
_SOFTWARE = "dpr-text check"
"""By this name, in its head, a picture is known."""
_HEAD = 1024


class SplitContents(NamedTuple):
    """Questions and positives of a split, hashed."""

    questions: Counter[int]
    """Number of times that each question occurs, without regard to case and spaces."""
    positives: np.ndarray
    """(M, 2) int64, ``Passage.keys`` of the different positives."""


def read_contents(pipe: DPRDataPipe) -> SplitContents:
    """Return the questions and positives of every usable row of a split."""
    indexes = [file.index for file in pipe.files]
    questions = Counter(key for index in indexes for key in index.questions[index.has_row].tolist())
    return SplitContents(questions, np.unique(np.concatenate([index.positives for index in indexes]), axis=0))


def count_shared_positives(one: SplitContents, other: SplitContents) -> int:
    """Return how many positives of a split are also positives of another one, by id or by title and text."""
    is_shared = np.isin(one.positives, other.positives).any(axis=1)
    return len(np.unique(one.positives[is_shared, 0]))


def train_sample_tokenizer(batches: Sequence[Sequence[Example]]) -> Tokenizer:
    """Train a tokenizer on the texts of a sample of batches."""
    examples = [example for batch in batches for example in batch]
    passages = (passage for example in examples for passage in (example.positives[0], *example.hard_negatives))
    return train_tokenizer([*(e.question for e in examples), *(passage.text for passage in passages)], _VOCAB_SIZE)


def format_rows(pipes: Mapping[str, DPRDataPipe], contents: Mapping[str, SplitContents]) -> list[str]:
    """Return lines with the counts of each split: questions, repetitions, rows left out, and other findings."""
    names = dict.fromkeys(name for pipe in pipes.values() for name in pipe.counts)
    reasons = dict.fromkeys(row.reason for pipe in pipes.values() for row in pipe.skipped)
    skipped = {stage: Counter(row.reason for row in pipe.skipped) for stage, pipe in pipes.items()}
    return [
        _format_line("", *pipes),
        _format_line("questions", *(pipe.num_rows for pipe in pipes.values())),
        _format_line("repeated questions", *(c.questions.total() - len(c.questions) for c in contents.values())),
        *(_format_line(f"rows left out: {reason}", *(skipped[stage][reason] for stage in pipes)) for reason in reasons),
        *(_format_line(name, *(pipe.counts[name] for pipe in pipes.values())) for name in names),
    ]


def format_overlaps(contents: Mapping[str, SplitContents]) -> list[str]:
    """Return lines with the number of questions and positives that each two splits share.

    A test on questions of the training data overrates the model.
    """
    pairs = list(combinations(contents, 2))
    if not pairs:
        return []
    lines = ["", _format_line("in both", *(f"{a}, {b}" for a, b in pairs))]
    questions = (len(contents[a].questions.keys() & contents[b].questions.keys()) for a, b in pairs)
    positives = (count_shared_positives(contents[b], contents[a]) for a, b in pairs)
    return [*lines, _format_line("questions", *questions), _format_line("positives", *positives)]


def format_lengths(lengths: Sequence[Lengths]) -> list[str]:
    """Return lines with percentiles of the token counts and the share of truncated texts."""
    lines = ["", _format_line("tokens of the train texts", "median", "95 %", "longest", "limit", "truncated")]
    for each in lengths:
        median, most, longest = np.percentile(each.tokens, [50, 95, 100]).astype(int)
        lines.append(_format_line(each.kind, median, most, longest, each.limit, f"{each.truncated_share:.2%}"))
    return lines


def format_batches(batches: Sequence[Sequence[Example]], batch_size: int) -> list[str]:
    """Return lines with the passages of a mean training batch, and how many of them are false negatives.

    Args:
        batches: A sample. Batches of fewer than ``batch_size`` questions count only if there are no others.
        batch_size: Questions of a whole batch.
    """
    whole = [batch for batch in batches if len(batch) == batch_size] or batches
    known, likely = np.mean([count_false_negatives(batch) for batch in whole], axis=0)
    num_passages = np.mean([sum(1 + len(example.hard_negatives) for example in batch) for batch in whole])
    return [
        "",
        f"a training batch: {len(whole[0])} questions, each compared with {num_passages:.0f} passages; "
        f"the loss is {math.log(num_passages):.2f} if all scores are equal",
        _format_line("  positives of another question, which are not its negatives", f"{known:.2f}"),
        _format_line("  other passages with an answer to another question, which are its negatives", f"{likely:.2f}"),
        *_format_answers([example for batch in whole for example in batch]),
        "",
    ]


def _format_answers(examples: Sequence[Example]) -> list[str]:
    """Return lines with the shares of questions about whose answers the line before says less."""
    shares = {
        "  questions with answers in scripts without spaces, which are matched as strings": np.mean(
            [any(map(has_unspaced, example.answers)) for example in examples]
        ),
        "  questions without answers, for which passages with an answer are not known": np.mean(
            [not example.answers for example in examples]
        ),
    }
    return [_format_line(name, f"{share:.0%}") for name, share in shares.items() if share]


def count_false_negatives(batch: Sequence[Example]) -> tuple[int, int]:
    """Count pairs of a question and a passage of another question of the batch that may answer it.

    Returns:
        Pairs whose passage is a known positive of the question. Training leaves these out.
        Other pairs whose passage contains an answer to the question. Training takes these as negatives.
    """
    known = likely = 0
    passages = [(i, p, p.keys) for i, e in enumerate(batch) for p in (e.positives[0], *e.hard_negatives)]
    for i, example in enumerate(batch):
        known_keys = (*(passage.keys for passage in example.positives), *(example.same_question_positives or ()))
        ids, contents = zip(*known_keys, strict=True)
        # An answer without any word would be found in every passage.
        answers = [answer for answer in example.answers if not has_answer([answer], "")]
        for owner, passage, (by_id, by_content) in passages:
            if owner != i:
                is_known = by_id in ids or by_content in contents
                known += is_known
                likely += not is_known and has_answer(answers, passage.text)
    return known, likely


def find_remarks(pipes: Mapping[str, DPRDataPipe], contents: Mapping[str, SplitContents]) -> Iterator[str]:
    """Yield a line for each finding that should be dealt with before training."""
    for pipe in pipes.values():
        yield from _find_question_faults([file.path for file in pipe.files])
    yield from (f"note: {sentence}" for sentence in find_same_data(hash_data(pipes)))
    for stage in (name for name in contents if name != "train"):
        shared = len(contents["train"].questions.keys() & contents[stage].questions.keys())
        if shared:
            yield f"note: {shared} questions of {stage} are also in train. The metrics on {stage} will be too good."
        shared = count_shared_positives(contents[stage], contents["train"])
        if shared:
            share = shared / len(np.unique(contents[stage].positives[:, 0]))
            yield (
                f"note: {shared} positives of {stage} ({share:.0%}) are also positives in train. The gain that {stage} "
                "shows may come from these passages alone. Compare with the questions whose positives are not in train."
            )
    if not pipes["train"].has_negatives:
        yield "note: no question of train has a hard negative. Its only negatives are passages of other questions."


def _find_question_faults(paths: Sequence[str]) -> Iterator[str]:
    """Yield a line for each file that training can read, but a search for its questions cannot."""
    for path in paths:
        try:
            read_questions(path)
        except DataError as error:
            yield f"note: {error} Until then, dpr-text search and mine refuse the file."


def check_picture(path: str | os.PathLike[str]) -> None:
    """Check that the picture takes the place of no file but an earlier picture of this kind.

    Raises:
        FileExistsError: The file exists and is another one.
    """
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if f"Software\0{_SOFTWARE}".encode() not in file.read(_HEAD):
                reason = "exists, and dpr-text check did not write it. Give another --picture, or remove it."
                raise FileExistsError(f"{os.fspath(path)} {reason}")


def draw_histograms(path: str | os.PathLike[str], lengths: Sequence[Lengths]) -> None:
    """Draw a histogram of each kind of text with its limit, as PNG."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(lengths)), lengths, strict=True):
        kind, tokens, limit = each
        axes.hist(tokens, bins=get_length_bins(tokens.max()), color="#4477aa")
        axes.axvline(limit, color="#cc3311", label=f"limit {limit}: {each.truncated_share:.2%} are longer")
        axes.set_title(f"{len(tokens):,} {kind}", loc="left")
        axes.set(xlabel="tokens, special tokens included", ylabel="texts")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)  # above the axes, where it covers nothing
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": _SOFTWARE})


def _format_line(name: str, *values: object) -> str:
    shown = (f"{value:,}" if isinstance(value, int | np.integer) else str(value) for value in values)
    return f"{name:<50}" + "".join(f"{value:>14}" for value in shown)
