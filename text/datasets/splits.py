"""Open the files of a data set's splits, and describe what is in them."""

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
from text.datasets.tokenless import FindsEmpty
from text.errors import DataError, UsageError

_NUM_SHOWN = 20
"""Places of rows that are printed."""


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
    """Return the pipe of each stage that has files: shuffled for training, in the order of the file for evaluation.

    Args:
        files: The files of each stage.
        batch_size: Questions in a batch, over all ranks together.
        collection: File of the passages that compact rows name.
        seed: Decides everything random in training, with the epoch.
        max_skipped: Maximum share of unusable rows.
        skip_no_positives: Leave out rows without a positive, and count them apart from ``max_skipped``.
        train_rates: ``rates`` of the training pipe. This and the next six are arguments of the training pipe.
        one_set_per_batch: Take each training batch from one file.
        rows_together: Neighboring rows that stay together.
        sample_positives: Train towards a random positive.
        num_hard_negatives: Hard negatives of a question in training.
        num_other_negatives: Random passages of a question in training.
        score_key: Key of a teacher's score in the training rows.
        valid_share: Share of the training questions to hold out for validation (``DPRDataPipe.split``).
        eval_hard_negatives: Hard negatives of a question in evaluation.
        eval_other_negatives: Random passages of a question in evaluation.

    Raises:
        UsageError: ``valid_share`` is given with validation files, or as ``DPRDataPipe.split``.
        DataError: A passage id stands with two passages, in one file or in two; or as ``DPRDataPipe``.
        ValueError, OSError: As ``DPRDataPipe``.
    """
    if valid_share is not None and "valid" in files:
        raise UsageError(
            f"--valid_share holds out training questions for validation, and there is {files['valid'][0]}. Leave out "
            "--valid_share or --valid_file. If the file is in the folder of --data_path, give --train_files instead."
        )
    for path in (*chain.from_iterable(files.values()), *([collection] if collection else [])):
        check_readable(path)  # before the first file is checked row by row, which can take long
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
    """Check that training has something to learn: a question without any negative has a constant loss of 0.

    Raises:
        DataError: No question has a negative.
    """
    compares_questions = in_batch_negatives and min(train.batch_size, train.num_rows) > 1
    if not (compares_questions or train.has_negatives):
        paths = ", ".join(file.path for file in train.files)
        raise DataError(
            f"{paths}: no question has a negative, so the loss is 0 and nothing is learned. "
            "Add hard negatives, or put more questions into a batch."
        )


def describe_split(stage: str, pipe: DPRDataPipe) -> str:
    """Return one or two lines that say what was found in the files of a stage."""
    where = "in all rows of the file: " if pipe.is_part else ""
    # Validation and test take the negatives that a row has, at most a number that nobody needs to give.
    counts = {name: count for name, count in pipe.counts.items() if pipe.train or not name.endswith("than asked for")}
    found = where + ", ".join(f"{count} {reason}" for reason, count in counts.items()) if counts else ""
    lines = [f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}"]
    if len(pipe.files) > 1:
        sets = zip(pipe.names, pipe.rows_per_set, strict=True)
        lines.append(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))
    return "\n".join(lines)


def describe_splits(pipes: Mapping[str, DPRDataPipe]) -> list[str]:
    """Return a line for each stage, and a note for each two stages that read the same rows."""
    lines = [describe_split(stage, pipe) for stage, pipe in pipes.items()]
    return lines + [f"note: {sentence}" for sentence in find_same_data(hash_data(pipes))]


def find_same_data(hashes: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a sentence for each two stages that read the same rows.

    Args:
        hashes: SHA-256 of the content of each file, by the name of the stage.

    >>> find_same_data({"train": ["a"], "valid": ["b"], "test": ["b"]})
    ['valid and test read the same rows: the test metrics are of questions that chose the best checkpoint.']
    """
    what = {"train": "that were trained on", "valid": "that chose the best checkpoint"}
    return [
        f"{one} and {other} read the same rows: the {other} metrics are of questions {what[one]}."
        for one, other in combinations(hashes, 2)
        if set(hashes[one]) & set(hashes[other])
    ]


def hash_data(pipes: Mapping[str, DPRDataPipe]) -> dict[str, list[str]]:
    """Return the SHA-256 of the content of each file, by stage, for ``find_same_data``.

    Validation data that was held out of the training data has no file of its own.
    """
    is_own = {stage: not (stage == "valid" and pipe.is_part) for stage, pipe in pipes.items()}
    return {stage: [file.findings.sha256 for file in pipe.files if is_own[stage]] for stage, pipe in pipes.items()}


def leave_out_tokenless(pipes: Mapping[str, DPRDataPipe], collate: FindsEmpty) -> list[str]:
    """Leave out the texts without tokens of each stage, and return a line for each stage that had any.

    Args:
        pipes: The pipe of each stage.
        collate: Knows the tokenizer, such as a ``BiEncoderCollator``.

    Raises:
        DataError: As ``DPRDataPipe.leave_out_tokenless``.
    """
    lines = []
    for stage, pipe in pipes.items():
        counts, skipped = Counter(pipe.counts), set(pipe.skipped)
        places = pipe.leave_out_tokenless(collate)
        rows = [format_place(row.path, row.line, row.byte) for row in pipe.skipped if row not in skipped]
        found = ", ".join(f"{count} {reason}" for reason, count in (Counter(pipe.counts) - counts).items())
        parts = [f"{found}: {_list_places(places)}"] if found else []
        if rows:
            parts.append(f"{len(rows)} rows left out, whose question or positives have no tokens: {_list_places(rows)}")
        lines += [f"{stage}: {'; '.join(parts)}"] if parts else []
    return lines


def _list_places(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NUM_SHOWN} more" if len(places) > _NUM_SHOWN else ""
    return ", ".join(places[:_NUM_SHOWN]) + more
