"""torchdata's pipes, where torchdata is installed.

Importing it adds its methods (``.prefetch()``, ``.bucketbatch()``, ...) to every DataPipe, ours
included. It has no wheel for Python 3.13 and later; there, everything works without it.
"""

from __future__ import annotations

import warnings

from torch.utils.data import IterDataPipe

try:
    with warnings.catch_warnings():
        # torchdata 0.9, the last release with DataPipes, says so once at import.
        warnings.filterwarnings("ignore", message=r"(?s).*datapipes.*modules are deprecated", category=UserWarning)
        from torchdata.datapipes.iter import Prefetcher
except ModuleNotFoundError:
    Prefetcher = None


def prefetch(pipe: IterDataPipe, buffer_size: int) -> IterDataPipe:
    """The same items, made ahead of time in a thread; without torchdata, the pipe as it is."""
    if Prefetcher is None:
        return pipe
    return Prefetcher(pipe, buffer_size)  # pyright: ignore[reportReturnType]: it derives from torch's IterDataPipe
