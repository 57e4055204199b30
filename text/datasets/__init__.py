"""Data in the DPR format and collections of passages: read by byte offset, checked, cut into batches of Example."""

from text.datasets.corpus import PassageCollection
from text.datasets.dpr import DPRDataPipe
from text.datasets.rows import DPRFile
from text.datasets.select import Selection, select_rows
from text.datasets.torchdata_pipes import prefetch

__all__ = ["DPRDataPipe", "DPRFile", "PassageCollection", "Selection", "prefetch", "select_rows"]
