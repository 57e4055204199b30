"""Keep matrix products of float32 tensors in full float32.

A process may allow products in TF32 or bfloat16, for example by ``torch.set_float32_matmul_precision("high")``. Their
rounding errors are a thousand times larger than the errors that exact search allows for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_num_active = 0
"""Number of threads inside ``full_float32``."""
_restore = ExitStack()
"""Calls that restore the settings of the process."""


@contextmanager
def full_float32(device_type: str) -> Iterator[None]:
    """Compute matrix products in full float32 inside the block, in autocast too. Afterwards restore the settings.

    The settings belong to the process. If several threads are inside, the last one restores them.

    Args:
        device_type: Device of the products, "cpu" or "cuda".
    """
    global _num_active, _restore
    with _lock:
        if not _num_active:
            _restore = _forbid_lower_precision()
        _num_active += 1
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        with _lock:
            _num_active -= 1
            if not _num_active:
                _restore.close()


def _forbid_lower_precision() -> ExitStack:
    """Set the precision of float32 products to the highest. Return a stack that restores the settings when closed."""
    restore = ExitStack()
    for read, write, highest in _list_settings():
        value = read()
        if value not in (highest, "none"):  # "none" is the default, which is the highest precision, too.
            restore.callback(write, value)
            write(highest)
    return restore


def _list_settings() -> list[tuple[Callable[[], str], Callable[[str], Any], str]]:
    """Return a getter, a setter and the highest precision of each setting.

    torch 2.9 has one setting for each library. Reading its older setting raises an error if the libraries differ.
    """
    libraries: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not hasattr(libraries[1], "fp32_precision"):
        return [(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")]
    return [
        (
            lambda library=library: library.fp32_precision,
            lambda value, library=library: setattr(library, "fp32_precision", value),
            "ieee",
        )
        for library in libraries
    ]
