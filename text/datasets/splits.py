"""Find and open the files of a data set's splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain

from text.artifacts import check_readable
from text.datasets.collection import PassageCollection
from text.datasets.dpr import DPRDataPipe
from text.datasets.formats.places import format_place
from text.datasets.identities import check_ids_across
from text.datasets.tokenless import FindsEmpty
from text.errors import DataError, UsageError

_NUM_SHOWN = 20
"""Places of rows that are printed."""
STAGES = ("train", "valid", "test")


def find_split(folder: str | os.PathLike[str], stage: str) -> str:
    """Return the path of a split: the first that exists of JSONL and JSON, each plain, gzip or zstd.

    Without any such file, the path of the plain JSONL file is returned, so that the reader's error names it.
    """
    names = [f"{stage}{ending}{packed}" for ending in (".jsonl", ".json") for packed in ("", ".gz", ".zst")]
    paths = [os.path.join(folder, name) for name in names]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def find_splits(
    data_path: str | None,
    *,
    train_files: Sequence[str] | None = None,
    valid_file: str | None = None,
    test_file: str | None = None,
) -> dict[str, list[str]]:
    """Return the files of each stage.

    Args:
        data_path: Folder that holds every split that no other argument names.
        train_files: Training files.
        valid_file: Validation file.
        test_file: Test file.

    Raises:
        UsageError: A split is named by nothing.
    """
    named = {
        "train": train_files,
        "valid": [valid_file] if valid_file else None,
        "test": [test_file] if test_file else None,
    }
    missing = [stage for stage, paths in named.items() if not paths]
    if missing and data_path is None:
        raise UsageError(
            f"no file for {', '.join(missing)}. Give --data_path, or --train_files, --valid_file, --test_file."
        )
    return {stage: list(paths or [find_split(data_path or "", stage)]) for stage, paths in named.items()}


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
    eval_hard_negatives: int = 30,
    eval_other_negatives: int = 30,
) -> dict[str, DPRDataPipe]:
    """Return the pipe of each stage: shuffled for training, in the order of the file for evaluation.

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
        eval_hard_negatives: Hard negatives of a question in evaluation.
        eval_other_negatives: Random passages of a question in evaluation.

    Raises:
        DataError: A passage id stands with two passages, in one file or in two; or as ``DPRDataPipe``.
        ValueError, OSError: As ``DPRDataPipe``.
    """
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
    pipes = {}
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
    found = ", ".join(f"{count} {reason}" for reason, count in pipe.counts.items())
    lines = [f"{stage}: {pipe.num_rows} questions, {len(pipe.skipped)} rows skipped{f' ({found})' if found else ''}"]
    if len(pipe.files) > 1:
        sets = zip(pipe.names, pipe.rows_per_set, strict=True)
        lines.append(f"{stage}: an epoch takes " + ", ".join(f"{num_rows} of {name}" for name, num_rows in sets))
    return "\n".join(lines)


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
