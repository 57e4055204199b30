"""Translation of errors from the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from text.errors import ArtifactError, InterruptedRun, UnsupportedModelError

_MAX_BYTES = 1 << 28


def check_sizes(files: Sequence[Path]) -> None:
    """Check that no tokenizer file is so large that reading it would exhaust memory.

    Raises:
        ArtifactError: A file is larger than 256 MiB.
    """
    for file in files:
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise ArtifactError(f"{file} has {size} bytes; a tokenizer has at most {_MAX_BYTES}. Check the path.")


@contextmanager
def translate_tokenizer_errors(files: Sequence[Path]) -> Iterator[None]:
    """Raise errors of the tokenizers library as an ArtifactError that names the tokenizer files.

    The library raises plain Exception. Its panics are BaseException only.
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
            f"{place}: not a tokenizer: {found}. Restore it, or save it again with tokenizers or transformers."
        ) from error
