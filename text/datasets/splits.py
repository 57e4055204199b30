"""Opening and description of the splits of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, combinations

from text.artifacts import check_readable
from text.datasets.collection import PassageCollection
from text.datasets.dpr import DPRDataPipe
from text.datasets.formats.places import format_place
from text.datasets.identities import check_ids_across
from text.datasets.split_files import SplitFiles
from text.datasets.tokenless import EmptyTextFinder
from text.errors import DataError, UsageError

_NUM_SHOWN = 20
"""Maximum number of places in a printed line."""


def open_splits(
    files: Mapping[str, Sequence[str]],
    *,
    batch_size: int,
    collection: str | None = None,
    seed: int = 0,
    max_skipped: float = 0.001,
    skip_no_positives: bool = False,
    train_rates: Sequence[float] | None = None,
    one_set_per_batch: bool = False,
    rows_together: int = 1,
    sample_positives: bool = False,
    num_hard_negatives: int = 1,
    num_other_negatives: int = 0,
    score_key: str | None = None,
    valid_share: float | None = None,
    eval_hard_negatives: int = 30,
    eval_other_negatives: int = 30,
) -> dict[str, DPRDataPipe]:
    """Return a pipe for each stage that has files. Training rows are shuffled, and evaluation keeps the file order.

    Args:
        files: Files of each stage.
        batch_size: Questions per batch, summed over all ranks.
        collection: File of the collection in which the passage ids of compact rows are looked up. By default, that of
            the converted files.
        seed: Seed of all random choices in training, together with the epoch.
        max_skipped: Maximum share of unusable rows.
        skip_no_positives: Skip rows without a positive. They do not count towards ``max_skipped``.
        train_rates: Number of passes over each training file per epoch (``rates`` of ``DPRDataPipe``).
        one_set_per_batch: Fill each training batch from one file.
        rows_together: Number of consecutive training rows that stay together when rows are shuffled.
        sample_positives: Train on a random positive of each question instead of the first one.
        num_hard_negatives: Maximum number of hard negatives per question in training.
        num_other_negatives: Maximum number of other negatives per question in training.
        score_key: Key of a teacher's score in the training rows.
        valid_share: Share of the training questions to hold out for validation (``DPRDataPipe.split``).
        eval_hard_negatives: Maximum number of hard negatives per question in validation and test.
        eval_other_negatives: Maximum number of other negatives per question in validation and test.

    Raises:
        UsageError: ``valid_share`` is given together with validation files, or ``DPRDataPipe.split`` raises.
        DataError: Two different passages have the same id, in one file or in two; or ``DPRDataPipe`` raises.
        ValueError: ``DPRDataPipe`` raises.
        OSError: A file cannot be read.
    """
    if valid_share is not None and "valid" in files:
        raise UsageError(
            f"--valid_share holds out training questions, but {files['valid'][0]} already holds validation data. Leave "
            "out --valid_share or --valid_file. If --data_path found the file, pass --train_files instead."
        )
    if collection is None and isinstance(files, SplitFiles):
        collection = files.collection
    for path in (*chain.from_iterable(files.values()), *([collection] if collection else [])):
        check_readable(path)  # Checking the rows of the first file can take long, so all files are tried first.
    passages = PassageCollection(collection) if collection else None
    open_pipe = partial(
        DPRDataPipe,
        batch_size=batch_size,
        passages=passages,
        seed=seed,
        max_skipped=max_skipped,
        skip_no_positives=skip_no_positives,
    )
    pipes: dict[str, DPRDataPipe] = {}
    for stage, paths in files.items():
        if stage == "train":
            pipes[stage] = open_pipe(
                paths,
                train=True,
                rates=train_rates,
                one_set_per_batch=one_set_per_batch,
                rows_together=rows_together,
                sample_positives=sample_positives,
                num_hard_negatives=num_hard_negatives,
                num_other_negatives=num_other_negatives,
                score_key=score_key,
            )
            if valid_share is not None:
                numbers = {"num_hard_negatives": eval_hard_negatives, "num_other_negatives": eval_other_negatives}
                pipes[stage], pipes["valid"] = pipes[stage].split(valid_share, **numbers)
        else:
            pipes[stage] = open_pipe(
                paths, num_hard_negatives=eval_hard_negatives, num_other_negatives=eval_other_negatives
            )
    check_ids_across([file for pipe in pipes.values() for file in pipe.files])
    return pipes


def check_negatives(train: DPRDataPipe, *, in_batch_negatives: bool = True) -> None:
    """Check that training questions have negatives. Without any negative the loss is always 0.

    Args:
        train: The training pipe.
        in_batch_negatives: Whether the loss uses the positives of other questions in the batch as negatives.

    Raises:
        DataError: No question has a negative.
    """
    compares_questions = in_batch_negatives and min(train.batch_size, train.num_rows) > 1
    if not (compares_questions or train.has_negatives):
        paths = ", ".join(file.path for file in train.files)
        raise DataError(
            f"{paths}: no question has a negative, so the loss is always 0. Add hard negatives, or use a larger batch."
        )


def describe_split(stage: str, pipe: DPRDataPipe) -> str:
    """Return one or two lines that summarize the rows of a stage."""
    where = "in all rows of the file: " if pipe.is_part else ""
    # Validation and test take up to a default number of negatives, so fewer of them need no warning.
    counts = {name: count for name, count in pipe.counts.items() if pipe.train or not name.endswith("than asked for")}
    found = where + ", ".join(f"{count} {reason}" for reason, count in counts.items()) if counts else ""
    lines = [f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}"]
    if len(pipe.files) > 1:
        sets = zip(pipe.names, pipe.rows_per_set, strict=True)
        lines.append(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))
    return "\n".join(lines)


def describe_splits(pipes: Mapping[str, DPRDataPipe]) -> list[str]:
    """Return a summary of each stage, and a note for each pair of stages that read the same rows."""
    lines = [describe_split(stage, pipe) for stage, pipe in pipes.items()]
    return lines + [f"note: {sentence}" for sentence in find_same_data(hash_data(pipes))]


def find_same_data(hashes: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a sentence for each pair of stages that read the same rows.

    Args:
        hashes: SHA-256 of the content of each file, by stage.

    >>> find_same_data({"train": ["a"], "valid": ["b"], "test": ["b"]})
    ['valid and test read the same rows: the test metrics are for questions that chose the best checkpoint.']
    """
    uses = {"train": "the model was trained on", "valid": "that chose the best checkpoint"}
    return [
        f"{one} and {other} read the same rows: the {other} metrics are for questions {uses[one]}."
        for one, other in combinations(hashes, 2)
        if set(hashes[one]) & set(hashes[other])
    ]


def hash_data(pipes: Mapping[str, DPRDataPipe]) -> dict[str, list[str]]:
    """Return the SHA-256 of the content of each file, by stage, for ``find_same_data``.

    Validation data that was held out of the training files has no files, and so no hashes.
    """
    is_own = {stage: not (stage == "valid" and pipe.is_part) for stage, pipe in pipes.items()}
    return {stage: [file.findings.sha256 for file in pipe.files if is_own[stage]] for stage, pipe in pipes.items()}


def leave_out_tokenless(pipes: Mapping[str, DPRDataPipe], collate: EmptyTextFinder) -> list[str]:
    """Drop the texts without tokens from each stage, and return a line for each stage that had any.

    Args:
        pipes: The pipe of each stage.
        collate: Collator with the tokenizer, such as a ``BiEncoderCollator``.

    Raises:
        DataError: Too many rows are unusable, or a file has changed since it was checked.
    """
    lines = []
    for stage, pipe in pipes.items():
        counts, skipped = Counter(pipe.counts), set(pipe.skipped)
        places = pipe.leave_out_tokenless(collate)
        rows = [format_place(row.path, row.line, row.byte) for row in pipe.skipped if row not in skipped]
        found = ", ".join(f"{count} {reason}" for reason, count in (Counter(pipe.counts) - counts).items())
        parts = [f"{found}: {_list_places(places)}"] if found else []
        if rows:
            parts.append(f"{len(rows)} rows whose question or positives have no tokens, left out: {_list_places(rows)}")
        lines += [f"{stage}: {'; '.join(parts)}"] if parts else []
    return lines


def _list_places(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NUM_SHOWN} more" if len(places) > _NUM_SHOWN else ""
    return ", ".join(places[:_NUM_SHOWN]) + more
