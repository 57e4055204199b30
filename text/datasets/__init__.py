"""From files to batches of Example."""

from text.datasets.dpr import DPRDataPipe
from text.datasets.select import select_rows
from text.datasets.torchdata_pipes import prefetch

__all__ = ["DPRDataPipe", "prefetch", "select_rows"]
