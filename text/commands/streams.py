"""Safe standard streams for commands that print untrusted text.

A line may contain ids, texts or paths from somebody else's data. The reader may be a terminal that interprets control
characters, a program that ends early (``head``), a stream that supports only ASCII, or a closed stream.
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
"""Errors of a pipe whose reader has ended, and of a closed terminal."""
_CURSOR = re.compile(r"[\r\n]*(\x1b\[A)*")
"""Text that moves a progress bar to its line. Data never consists of such text alone."""


@contextmanager
def guard_streams() -> Iterator[None]:
    """Replace stdout and stderr by a ``SafeStream`` in the block. Output to closed streams is dropped."""
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
    """Text stream that escapes control characters and characters that its encoding does not support.

    If the reader goes away, further text is dropped and the command continues.

    Args:
        stream: Stream to write to.
        name: Name of the stream in errors such as a full disk. Without a name, such errors are ignored.
    """

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream = stream
        self._name = name
        self.has_reader = True
        """True until a write fails because the reader is gone."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text and return its length.

        Raises:
            OSError: The text cannot be written, for example because the disk is full.
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
        """Write the buffered text. Errors are those of ``write``."""
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
        """Redirect the stream to the null device, including buffered text and Python's last flush."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def read_lines() -> Iterator[str]:
    """Yield the lines of standard input, until it ends or standard output has no reader."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # Invalid UTF-8 must not end the session.
    for line in sys.stdin:
        if not getattr(sys.stdout, "has_reader", True):
            return
        yield line


def _escape(text: str) -> str:
    """Escape control characters, except newlines, tabs, and the movements of a progress bar."""
    if _CURSOR.fullmatch(text):
        return text
    start = "\r" if text.startswith("\r") else ""  # A progress bar overwrites its line.
    pieces = re.split(r"([\n\t])", text[len(start) :])
    return start + "".join(piece if piece in ("\n", "\t") else escape_controls(piece) for piece in pieces)


def _open_missing() -> None:
    """Open the null device for closed standard streams, so that no other file gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The new file gets the lowest free descriptor.
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
