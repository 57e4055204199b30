"""Errors of the tokenizers library as errors of this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from text.errors import ArtifactError, InterruptedRun, UnsupportedModelError

_MAX_BYTES = 1 << 28


def check_sizes(files: Sequence[Path]) -> None:
    """Check that files of a tokenizer are not so large that reading them fills the memory.

    Raises:
        ArtifactError: A file is larger than any tokenizer.
    """
    for file in files:
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise ArtifactError(f"{file} has {size} bytes, more than {_MAX_BYTES}. It is another kind of file.")


@contextmanager
def name_faults(files: Sequence[Path]) -> Iterator[None]:
    """Turn every error while a tokenizer is built from files into an ArtifactError that names them.

    The library raises plain Exception, and its panics are no Exception.
    """
    try:
        yield
    except (ArtifactError, UnsupportedModelError, InterruptedRun, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        place = files[0] if len(files) == 1 else f"{files[0].parent} ({', '.join(file.name for file in files)})"
        found = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(
            f"{place}: not a tokenizer: {found}. Restore it, or save it with tokenizers or transformers."
        ) from error
