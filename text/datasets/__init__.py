"""Data sets in the DPR format and collections of passages: checking, random access and batches of examples."""

import text.datasets.torchdata_pipes  # noqa: F401  The import adds torchdata's methods to DataPipes.
from text.datasets.collection import PassageCollection
from text.datasets.collection_update import read_ids, update_collection
from text.datasets.dpr import DPRDataPipe
from text.datasets.dpr_file import DPRFile
from text.datasets.prefetching import prefetch
from text.datasets.questions import Question, read_positive_ids, read_questions
from text.datasets.selection import Selection, select_rows
from text.datasets.split_files import STAGES, describe_files, find_in_folder, find_splits
from text.datasets.splits import (
    check_negatives,
    describe_split,
    describe_splits,
    find_same_data,
    hash_data,
    leave_out_tokenless,
    open_splits,
)
from text.datasets.windows import cut_collection, cut_rows, cut_windows, write_windows

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
