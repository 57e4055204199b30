"""Standard streams on which a command can print anything, whoever reads them.

A line may hold an id, a text or a path of somebody else's data. The reader may be a terminal, which obeys control
characters; ``head``, which ends early; or a stream that can show ASCII only, or that was closed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TextIO, cast

from text.errors import escape_controls

_READER_IS_GONE = (errno.EPIPE, errno.EIO)
"""A pipe whose reader has ended, or a terminal that was closed."""
_CURSOR = re.compile(r"[\r\n]*(\x1b\[A)*")
"""What a progress bar writes to reach its line. Data is never written alone."""


@contextmanager
def guard_streams() -> Iterator[None]:
    """Print through a ``SafeStream`` to stdout and stderr in the block. Streams that were closed print to nowhere."""
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, SafeStream(sys.stdout, "standard output"))
    sys.stderr = cast(TextIO, SafeStream(sys.stderr))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


class SafeStream:
    """A text stream that escapes what a terminal would obey, and what its encoding cannot express.

    When the reader has gone, the rest of the text goes nowhere: the work of the command is worth more than its reader.

    Args:
        stream: The stream.
        name: Name of the stream in the error of a full disk. Without a name the text is dropped instead.
    """

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream = stream
        self._name = name
        self.has_reader = True
        """Whether somebody may still read the text."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OSError: The text cannot be written, such as to a file on a full disk.
        """
        encoding = self._stream.encoding or "utf-8"
        shown = _escape(text).encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(partial(self._stream.write, shown))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after another."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered. Errors are those of ``write``."""
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[[], object]) -> None:
        if self._stream.closed:
            return
        try:
            call()
        except OSError as error:
            self.has_reader = error.errno not in _READER_IS_GONE
            self._redirect()
            if self._name and error.errno not in _READER_IS_GONE:
                raise OSError(error.errno, error.strerror, self._name) from None

    def _redirect(self) -> None:
        """Send everything to the null device, also what is buffered and what Python flushes when it ends."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def read_lines() -> Iterator[str]:
    """Yield the lines of standard input, until it ends or nobody reads standard output."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # A line that is not UTF-8 does not end the session.
    for line in sys.stdin:
        if not getattr(sys.stdout, "has_reader", True):
            return
        yield line


def _escape(text: str) -> str:
    """Escape control characters, except those that end lines and columns or move a progress bar."""
    if _CURSOR.fullmatch(text):
        return text
    start = "\r" if text.startswith("\r") else ""  # A progress bar writes over its line.
    pieces = re.split(r"([\n\t])", text[len(start) :])
    return start + "".join(piece if piece in ("\n", "\t") else escape_controls(piece) for piece in pieces)


def _open_missing() -> None:
    """Open the null device for standard streams that are closed, so that no file of the command takes their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
