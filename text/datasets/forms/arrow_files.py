"""Records of Parquet files, and of the Arrow files in a folder that ``datasets`` has saved.

pyarrow reads both. A batch of rows is in memory at a time. Files are not memory-mapped, because reading a memory map of
a truncated file kills the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from text.datasets.formats.values import check_no_repeated_key
from text.datasets.forms.records import Record, explain_fields
from text.errors import DataError, explain_missing
from text.progress import Progress

with explain_missing("parquet"):
    import pyarrow
    import pyarrow.parquet

_BATCH_ROWS = 256
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowFile:
    """Records of a Parquet file, or of an Arrow stream.

    Args:
        path: The file. The ending ``.arrow`` marks a stream.
        progress: Progress bar to advance by the size of the file at its end.
    """

    def __init__(self, path: str, progress: Progress | None = None) -> None:
        self._path, self._progress = path, progress
        self._row = 0

    def __iter__(self) -> Iterator[Record]:
        """Yield the record of each row. Null values are None.

        Raises:
            DataError: The file is damaged or of another format.
            OSError: The file cannot be read.
        """
        batches = self._read_stream() if self._path.endswith(".arrow") else self._read_parquet()
        try:
            for batch in batches:
                with explain_fields(self):
                    check_no_repeated_key(batch.schema.names)
                batch.validate(full=True)
                for record in batch.to_pylist():
                    self._row += 1
                    yield record
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise DataError(f"{self._path}:{self._row + 1}: cannot be read after this row: {reason}.") from None
        if self._progress is not None:
            self._progress.update(os.path.getsize(self._path))

    def describe_place(self, field: str) -> str:
        """Return the file and the number of the row that was read last, from 1."""
        return f"{self._path}:{self._row}"

    def _read_parquet(self) -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(self._path) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)

    def _read_stream(self) -> Iterator[Any]:
        with pyarrow.OSFile(self._path) as source, pyarrow.ipc.open_stream(source) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield batch.slice(start, _BATCH_ROWS)
        with open(self._path, "rb") as file:
            file.seek(-len(_STREAM_END), os.SEEK_END)
            if file.read() != _STREAM_END:  # pyarrow accepts a stream that is cut between two batches.
                raise pyarrow.ArrowInvalid("The end of the file is missing")
