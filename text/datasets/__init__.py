"""From files to batches of Example."""

from text.datasets.dpr import DPRDataPipe
from text.datasets.prefetch import prefetch
from text.datasets.select import select_rows

__all__ = ["DPRDataPipe", "prefetch", "select_rows"]
