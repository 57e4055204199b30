"""Data in the DPR format and collections of passages: read by byte offset, checked, cut into batches of Example."""

import text.datasets.torchdata_pipes  # noqa: F401  adds its methods to pipes
from text.datasets.collection import PassageCollection
from text.datasets.collection_update import update_collection
from text.datasets.dpr import DPRDataPipe
from text.datasets.dpr_file import DPRFile
from text.datasets.prefetching import prefetch
from text.datasets.questions import Question, read_questions
from text.datasets.selection import Selection, select_rows
from text.datasets.windows import cut_windows

__all__ = [
    "DPRDataPipe",
    "DPRFile",
    "PassageCollection",
    "Question",
    "Selection",
    "cut_windows",
    "prefetch",
    "read_questions",
    "select_rows",
    "update_collection",
]
