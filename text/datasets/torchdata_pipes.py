"""torchdata's pipes, where torchdata is installed.

Importing it adds its methods (``.prefetch()``, ``.bucketbatch()``, ...) to every DataPipe, ours
included. It has no wheel for Python 3.13 and later; there, everything works without it.
"""

from __future__ import annotations

import contextlib
import warnings

with contextlib.suppress(ModuleNotFoundError), warnings.catch_warnings():
    # torchdata 0.9, the last release with DataPipes, says so once at import.
    warnings.filterwarnings("ignore", message=r"(?s).*datapipes.*modules are deprecated", category=UserWarning)
    import torchdata.datapipes.iter  # noqa: F401
