"""Rows of BEIR and MS MARCO folders, converted once and kept beside the judgments.

The collection of the folder is used as it is, so nothing is copied.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from text.datasets.collection import PassageCollection
from text.datasets.formats.sidecars import compute_data_key
from text.datasets.forms.folders import JudgedFolder, find_judged_folder, find_judging_folder
from text.datasets.forms.judged_rows import MIN_RELEVANCE, read_folder_rows
from text.datasets.forms.kept_files import keep_rows
from text.datasets.forms.splits import name_stage
from text.datasets.forms.writing import Source
from text.errors import UsageError

_RULES = 1  # Increase when the same files give other rows.


class BeirFiles(NamedTuple):
    """Files of a BEIR folder whose judgments were converted to rows."""

    rows: dict[str, str]
    """Compact rows by stage: train, valid or test. They are kept beside the judgments."""
    qrels: dict[str, str]
    """Judgments by stage."""
    collection: str
    """corpus.jsonl, which is a collection of passages."""
    questions: str
    """queries.jsonl with the questions of all splits."""


def is_beir_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder in BEIR's layout."""
    folder = find_judged_folder(path)
    return folder is not None and folder.form == "beir"


def prepare_beir(
    path: str | os.PathLike[str],
    stages: Sequence[str] = ("train", "valid", "test"),
    *,
    min_relevance: int = MIN_RELEVANCE,
) -> BeirFiles:
    """Convert the judgments of a BEIR folder to compact rows, once, and return all files.

    Args:
        path: The folder. ``dev`` and ``validation`` are names of the stage ``valid``.
        stages: Stages to convert. A stage without judgments is left out.
        min_relevance: Smallest relevance of a positive.

    Raises:
        UsageError: The folder has another layout, or two files for one stage.
        DataError: A judged question or a passage is missing, or a file cannot be parsed.
        OSError: A file cannot be read, or the rows cannot be kept.
    """
    folder = find_judged_folder(path)
    if folder is None or folder.form != "beir":
        raise UsageError(
            f"{os.fspath(path)} is not a BEIR folder. Give a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv."
        )
    rows = keep_folder_rows(folder, stages, min_relevance=min_relevance)
    splits = name_stages(folder)
    qrels = {stage: folder.qrels[splits[stage]] for stage in rows}
    return BeirFiles(rows, qrels, folder.collection, next(iter(folder.questions.values())))


def keep_folder_rows(
    folder: JudgedFolder, stages: Sequence[str], *, min_relevance: int = MIN_RELEVANCE
) -> dict[str, str]:
    """Convert the judgments of some stages to compact rows, once, and return the paths of the rows.

    Raises:
        UsageError: The folder has two files for one stage.
        DataError, OSError: As for ``prepare_beir``.
    """
    splits = name_stages(folder)
    return {stage: _keep_rows(folder, splits[stage], min_relevance) for stage in stages if stage in splits}


def prepare_qrels(path: str | os.PathLike[str], *, min_relevance: int = MIN_RELEVANCE) -> str:
    """Convert one file of judgments in a folder to compact rows, once, and return the path of the rows.

    Raises:
        UsageError: The file does not belong to a folder in BEIR's or MS MARCO's layout.
        DataError, OSError: As for ``prepare_beir``.
    """
    folder = find_judging_folder(path)
    if folder is None:
        raise UsageError(f"{os.fspath(path)} is not in a BEIR or MS MARCO folder. Give the folder as --data_path.")
    split = next(split for split, each in folder.qrels.items() if os.path.samefile(each, path))
    return _keep_rows(folder, split, min_relevance)


def name_stages(folder: JudgedFolder) -> dict[str, str]:
    """Return the name of the split for each stage. A stage is train, valid or test, or else the name of the split.

    Raises:
        UsageError: The folder has two files for one stage.
    """
    splits: dict[str, str] = {}
    for split, path in folder.qrels.items():
        stage = name_stage(split.partition(".")[0])  # MS MARCO has dev.small.
        if splits.setdefault(stage, split) != split:
            raise UsageError(
                f"{folder.qrels[splits[stage]]} and {path} are both judgments for {stage}. Remove one of them."
            )
    return splits


def _keep_rows(folder: JudgedFolder, split: str, min_relevance: int) -> str:
    """Return the path of the kept rows of a split. They are made again if any file of the folder has changed."""
    path = folder.qrels[split]
    used = [folder.collection, folder.questions[split], *([folder.triples[split]] if split in folder.triples else [])]

    def read(counts: Counter[str]) -> list[Source]:
        collection = PassageCollection(folder.collection)
        rows = read_folder_rows(folder, split, collection, counts, min_relevance=min_relevance)
        return [Source(rows, lambda _: path)]

    return keep_rows(
        path,
        (_RULES, min_relevance, list(map(compute_data_key, used))),
        read,
        name=path,
        explain_empty=lambda _: f"{path}: no question has a passage with relevance {min_relevance} or more.",
    )
