"""Data in the DPR format and collections of passages: read by byte offset, checked, cut into batches of Example."""

import text.datasets.torchdata_pipes  # noqa: F401  adds its methods to pipes
from text.datasets.corpus import PassageCollection
from text.datasets.dpr import DPRDataPipe
from text.datasets.prefetching import prefetch
from text.datasets.questions import Question, read_questions
from text.datasets.rows import DPRFile
from text.datasets.select import Selection, select_rows
from text.datasets.update import update_collection
from text.datasets.windows import windows

__all__ = [
    "DPRDataPipe",
    "DPRFile",
    "PassageCollection",
    "Question",
    "Selection",
    "prefetch",
    "read_questions",
    "select_rows",
    "update_collection",
    "windows",
]
