"""Rows of tables and folders that training reads directly: they are converted once, and kept beside the data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from text.datasets.formats.sidecars import compute_data_key
from text.datasets.forms.beir import keep_folder_rows, name_stages, prepare_qrels
from text.datasets.forms.data_set import read_file
from text.datasets.forms.folders import find_judged_folder, find_judging_folder
from text.datasets.forms.kept_files import keep_rows
from text.datasets.forms.reading import Reading
from text.datasets.forms.sources import find_split_files, is_saved_split, is_table
from text.datasets.forms.writing import Source, format_counts

_RULES = 1  # Increase when the same files give other rows.


class KeptRows(NamedTuple):
    """Rows that were converted from a table or a folder."""

    path: str
    """Kept file in the DPR format."""
    source: str
    """File or folder that the rows come from."""
    collection: str | None = None
    """Passages of compact rows."""


def find_kept_rows(path: str | os.PathLike[str], stages: Iterable[str]) -> dict[str, KeptRows]:
    """Convert a table, or the tables or judgments of a folder, once, and return the rows of each stage.

    A table is the stage train. Files of JSON rows are not converted, so the result is empty if there is nothing else.

    Args:
        path: File or folder.
        stages: Stages to convert.

    Raises:
        UsageError: The form of a table is not clear, or two files hold one stage.
        DataError: A row cannot be read, or no row can be used.
        OSError: A file cannot be read, or the rows cannot be kept.
    """
    path, stages = os.fspath(path), list(stages)
    folder = find_judged_folder(path)
    if folder is not None:
        rows, splits = keep_folder_rows(folder, stages), name_stages(folder)
        return {stage: KeptRows(each, folder.qrels[splits[stage]], folder.collection) for stage, each in rows.items()}
    if not os.path.isdir(path):
        kept = keep_file(path)
        return {"train": kept} if kept is not None and "train" in stages else {}
    files = find_split_files(path, only_tables=True)
    return {stage: KeptRows(_keep_rows(files[stage]), files[stage][0]) for stage in stages if stage in files}


def keep_file(path: str | os.PathLike[str]) -> KeptRows | None:
    """Convert a table, a folder that ``datasets`` has saved, or judgments, once. Return None for a file of JSON rows.

    Raises:
        UsageError, DataError, OSError: As for ``find_kept_rows``.
    """
    path = os.fspath(path)
    if is_saved_split(path):
        [files] = find_split_files(path).values()
        return KeptRows(_keep_rows(files), path)
    if not is_table(path) or not os.path.isfile(path):
        return None
    folder = find_judging_folder(path)
    if folder is not None:
        return KeptRows(prepare_qrels(path), path, folder.collection)
    return KeptRows(_keep_rows([path]), path)


def _keep_rows(paths: Sequence[str]) -> str:
    """Return the path of the kept rows of some files. They are made again if any file has changed."""
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    def read(counts: Counter[str]) -> Iterator[Source]:
        is_part = len(paths) > 1
        return (source for path in paths for source in read_file(path, Reading(), counts, is_part=is_part))

    return keep_rows(
        paths[0],
        (_RULES, list(map(compute_data_key, paths))),
        read,
        name=name,
        explain_empty=lambda counts: f"{name}: no row can be used{format_counts(counts)}.",
    )
