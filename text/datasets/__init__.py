"""Data sets in the DPR format and collections of passages: checking, random access and batches of examples."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from text.datasets.collection import PassageCollection
from text.datasets.collection_update import read_ids, update_collection
from text.datasets.dpr_file import DPRFile
from text.datasets.questions import Question, read_positive_ids, read_questions
from text.datasets.selection import Selection, select_rows
from text.datasets.split_files import STAGES, describe_files, find_in_folder, find_splits
from text.datasets.windows import cut_collection, cut_rows, cut_windows, write_windows

if TYPE_CHECKING:
    from text.datasets.dpr import DPRDataPipe
    from text.datasets.prefetching import prefetch
    from text.datasets.splits import (
        check_negatives,
        describe_split,
        describe_splits,
        find_same_data,
        hash_data,
        leave_out_tokenless,
        open_splits,
    )

__all__ = [
    "STAGES",
    "DPRDataPipe",
    "DPRFile",
    "PassageCollection",
    "Question",
    "Selection",
    "check_negatives",
    "cut_collection",
    "cut_rows",
    "cut_windows",
    "describe_files",
    "describe_split",
    "describe_splits",
    "find_in_folder",
    "find_same_data",
    "find_splits",
    "hash_data",
    "leave_out_tokenless",
    "open_splits",
    "prefetch",
    "read_ids",
    "read_positive_ids",
    "read_questions",
    "select_rows",
    "update_collection",
    "write_windows",
]

_LAZY = {"DPRDataPipe": "dpr", "prefetch": "prefetching"}
"""Module of each name. These modules import torch, which needs 200 MB of memory. The default is ``splits``."""


def __getattr__(name: str) -> Any:
    """Import a name of a module that imports torch at its first use.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY.get(name, 'splits')}"), name)


def __dir__() -> list[str]:
    """Return all names, also those that are imported at their first use."""
    return sorted({*globals(), *__all__})
