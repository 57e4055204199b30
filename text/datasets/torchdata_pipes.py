"""Optional DataPipe methods of torchdata.

Importing torchdata adds its methods (``.prefetch()``, ``.bucketbatch()``, ...) to every DataPipe, including
``DPRDataPipe``. torchdata is optional, and has no wheel for Python 3.13 and later.
"""

from __future__ import annotations

import contextlib
import warnings

with contextlib.suppress(ModuleNotFoundError), warnings.catch_warnings():
    # torchdata 0.9, the last release with DataPipes, warns at import that they are deprecated.
    warnings.filterwarnings("ignore", message=r"(?s).*datapipes.*modules are deprecated", category=UserWarning)
    import torchdata.datapipes.iter  # noqa: F401
