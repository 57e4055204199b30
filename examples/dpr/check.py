"""Looks at a data set before a long run, and tells on one page what would hurt it.

    python examples/dpr/check.py --data_path=examples/dpr/data/nq3_tiny/data/retriever/

Exit code 3 says that it cannot train: rows that cannot be read, or a loss that would be constant.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from examples.dpr.cli import check_at_least, run
from examples.dpr.lengths import Lengths, bins, measure, sample
from examples.dpr.paths import check_files
from examples.dpr.splits import STAGES, TINY_SET, find_split
from text.artifacts import atomic_write
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import DataError
from text.records import Example, text_key
from text.transforms import load_tokenizer, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Looks at a data set before a long run, and tells on one page what would hurt it."""

    data_path: str = TINY_SET
    """Folder with the splits, as for training."""
    passages: str | None = None
    """Collection that compact rows name passages of."""
    tokenizer: str | None = None
    """tokenizer.json, or a folder with one; by default one is trained on the texts that are looked at."""
    batch_size: int = 16
    """Questions per training batch."""
    num_hard_negatives: int = 1
    """Hard negatives per question in training."""
    question_max_length: int = 64
    """Tokens of a question, special ones included."""
    passage_max_length: int = 256
    """Tokens of a title and text together, special ones included."""
    num_sampled: int = 2000
    """Questions of each split whose texts and batches are looked at; rows are all checked."""
    max_skipped: float = 0.001
    """Largest share of rows that may be unusable."""
    picture: str = "runs/check/lengths.png"
    """Where the histograms of lengths go."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "num_hard_negatives", "max_skipped")
        check_at_least(self, 1, "batch_size", "num_sampled", "question_max_length", "passage_max_length")


class Contents(NamedTuple):
    """All of a split, by hash, for what two splits have in common."""

    questions: Counter[int]
    positives: set[int]


def main(config: CheckConfig) -> None:
    """Prints the page, writes the picture."""
    pipes = build_pipes(config)
    samples = {stage: sample(pipe, config.num_sampled) for stage, pipe in pipes.items()}
    contents = {stage: read_contents(pipe) for stage, pipe in pipes.items()}
    limits = (config.question_max_length, config.passage_max_length)
    lengths = measure(build_tokenizer(config, samples["train"]), samples["train"], limits)
    draw(lengths, config.picture)
    print("\n".join([*rows_section(pipes, contents), *overlap_section(contents), *length_section(lengths)]))
    print("\n".join([*batch_section(config, samples["train"]), f"histograms of lengths: {config.picture}"]))
    print("\n".join(remarks(pipes, contents, lengths)))
    if not (pipes["train"].has_negatives or min(config.batch_size, pipes["train"].num_rows) > 1):
        raise DataError(
            f"{pipes['train'].files[0].path}: no question has a negative, so that the loss is constant 0 and nothing "
            "is learned; expected hard negatives, or more questions in a batch"
        )


def build_pipes(config: CheckConfig) -> dict[str, DPRDataPipe]:
    """The splits, each row checked."""
    paths = {stage: find_split(config.data_path, stage) for stage in STAGES}
    check_files([*paths.values(), config.passages], [config.picture], overwrite=True)
    passages = PassageCollection(config.passages) if config.passages else None
    return {
        stage: DPRDataPipe(
            path,
            config.batch_size,
            train=stage == "train",
            passages=passages,
            num_hard_negatives=config.num_hard_negatives,
            max_skipped=config.max_skipped,
        )
        for stage, path in paths.items()
    }


def read_contents(pipe: DPRDataPipe) -> Contents:
    """Every question, without regard to case and spaces, and every positive."""
    questions, positives = Counter[int](), set()
    for file in pipe.files:
        with file.open() as reader:
            for number in file.usable():
                row = reader.read(int(number))
                questions[text_key(" ".join(row.question.casefold().split()))] += 1
                positives.update(passage.keys[1] for passage in row.positives)
    return Contents(questions, positives)


def build_tokenizer(config: CheckConfig, batches: Sequence[list[Example]]) -> Tokenizer:
    """The one asked for, else one trained on the texts of the batches."""
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    examples = [example for batch in batches for example in batch]
    passages = (passage for example in examples for passage in (example.positives[0], *example.hard_negatives))
    return train_tokenizer([*(e.question for e in examples), *(passage.text for passage in passages)], 8192)


def rows_section(pipes: dict[str, DPRDataPipe], contents: dict[str, Contents]) -> list[str]:
    """What the check of the rows found, split by split."""
    names = dict.fromkeys(name for pipe in pipes.values() for name in pipe.counts)
    reasons = dict.fromkeys(row.reason for pipe in pipes.values() for row in pipe.skipped)
    skipped = {stage: Counter(row.reason for row in pipe.skipped) for stage, pipe in pipes.items()}
    return [
        _line("", *pipes),
        _line("questions", *(pipe.num_rows for pipe in pipes.values())),
        _line("the same question again", *(c.questions.total() - len(c.questions) for c in contents.values())),
        *(_line(f"rows left out: {reason}", *(skipped[stage][reason] for stage in pipes)) for reason in reasons),
        *(_line(name, *(pipe.counts[name] for pipe in pipes.values())) for name in names),
    ]


def overlap_section(contents: dict[str, Contents]) -> list[str]:
    """What two splits have in common: a test on what was trained on tells nothing."""
    pairs = list(combinations(contents, 2))
    lines = ["", _line("in both", *(f"{a}, {b}" for a, b in pairs))]
    for field in Contents._fields:
        common = (set(getattr(contents[a], field)) & set(getattr(contents[b], field)) for a, b in pairs)
        lines.append(_line(field, *map(len, common)))
    return lines


def length_section(lengths: Iterable[Lengths]) -> list[str]:
    """Tokens of a text, and what the limits cut."""
    lines = ["", _line("tokens of the train texts", "median", "95 %", "longest", "limit", "truncated")]
    for kind, tokens, limit in lengths:
        middle, most, longest = np.percentile(tokens, [50, 95, 100]).astype(int)
        lines.append(_line(kind, middle, most, longest, limit, f"{(tokens > limit).mean():.2%}"))
    return lines


def batch_section(config: CheckConfig, batches: Sequence[list[Example]]) -> list[str]:
    """What questions of one batch meet: passages that are no negatives of theirs after all."""
    whole = [batch for batch in batches if len(batch) == config.batch_size] or batches
    known, holding = np.mean([_false_negatives(batch) for batch in whole], axis=0)
    compared = np.mean([sum(1 + len(example.hard_negatives) for example in batch) for batch in whole])
    return [
        "",
        f"a training batch: {len(whole[0])} questions, each compared with {compared:.0f} passages; "
        f"the loss is {math.log(compared):.2f} when all look alike",
        _line("  passages known to answer another question, which do not count as its negatives", f"{known:.2f}"),
        _line("  passages that hold an answer to another question, and count as its negatives", f"{holding:.2f}"),
        "",
    ]


def draw(lengths: Sequence[Lengths], path: str) -> None:
    """Histograms of the lengths, with the limits."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, (kind, tokens, limit) in zip(figure.subplots(1, len(lengths)), lengths, strict=True):
        axes.hist(tokens, bins=bins(tokens.max()), color="#4477aa")
        axes.axvline(limit, color="#cc3311", label=f"limit {limit}: {(tokens > limit).mean():.2%} are longer")
        axes.set(title=f"{len(tokens)} {kind}", xlabel="tokens, special ones included", ylabel="texts")
        axes.legend()
    with atomic_write(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def remarks(pipes: dict[str, DPRDataPipe], contents: dict[str, Contents], lengths: Iterable[Lengths]) -> Iterator[str]:
    """What to do something about before training."""
    for stage in ("valid", "test"):
        common = len(contents["train"].questions.keys() & contents[stage].questions.keys())
        if common:
            yield f"note: {common} questions of {stage} are in train, too: its figures will be better than they should"
    for kind, tokens, limit in lengths:
        if (tokens > limit).mean() > 0.05:
            yield f"note: {(tokens > limit).mean():.0%} of the {kind} are truncated: a higher limit keeps their end"
    if not pipes["train"].has_negatives:
        yield "note: no question of train has a hard negative: only other questions' passages are its negatives"


def _false_negatives(batch: Sequence[Example]) -> tuple[int, int]:
    """Pairs of a question and another's passage that is known to answer it; and that else holds an answer."""
    known = holding = 0
    passages = [(i, p, p.keys) for i, e in enumerate(batch) for p in (e.positives[0], *e.hard_negatives)]
    texts = [f" {_words(passage.text)} " for _, passage, _ in passages]
    for i, example in enumerate(batch):
        ids, keys = zip(*(passage.keys for passage in example.positives), strict=True)
        answers = [f" {words} " for answer in example.answers if (words := _words(answer))]
        for (owner, _, (by_id, by_text)), text in zip(passages, texts, strict=True):
            if owner != i:
                is_known = by_id in ids or by_text in keys
                known += is_known
                holding += not is_known and any(answer in text for answer in answers)
    return known, holding


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _line(name: str, *values: object) -> str:
    shown = (f"{value:,}" if isinstance(value, int | np.integer) else str(value) for value in values)
    return f"{name:<50}" + "".join(f"{value:>14}" for value in shown)


if __name__ == "__main__":
    sys.exit(run(main, CheckConfig))
