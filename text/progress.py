"""Progress of long loops: a bar on a terminal, or regular lines in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

SECONDS = 30.0
"""Default interval of progress lines in seconds."""
_DELAY = 2
"""Seconds before the bar of a loop appears."""
_Item = TypeVar("_Item")


class ProgressLines:
    """Progress of a loop as lines of text, with the items done, the rate and the remaining time.

    Args:
        name: Description of the loop, such as "Encoding".
        total: Total number of items.
        unit: Name of the items, such as "passages", or "B" for bytes.
        stream: Output stream.
        seconds: Seconds between two lines. With 0 each update prints a line.
    """

    def __init__(self, name: str, total: int, unit: str, stream: TextIO, seconds: float = SECONDS) -> None:
        self.name, self.total, self.unit, self.stream, self.seconds = name, total, unit, stream, seconds
        self.n = self.initial = 0
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Add completed items, and print a line if one is due."""
        self.n += n
        now = time.monotonic()
        if now - self._printed >= self.seconds:
            self._printed = now
            print(self.describe(now - self._started), file=self.stream, flush=True)

    def skip(self, n: int) -> None:
        """Add items that were completed before this loop. They do not count for the rate."""
        self.n, self.initial = self.n + n, self.initial + n

    def describe(self, elapsed: float) -> str:
        """Return the progress line.

        Args:
            elapsed: Seconds since the start of the loop.
        """
        rate = (self.n - self.initial) / max(elapsed, 1e-9)
        left = tqdm.format_interval((self.total - self.n) / rate) if rate else "?"
        share = f"{self.n / max(self.total, 1):.0%}"
        if self.unit == "B":
            done, total, rate = (tqdm.format_sizeof(n, "B") for n in (self.n, self.total, rate))
            return f"{self.name}: {done} of {total} ({share}), {rate}/s, {left} left"
        return (
            f"{self.name}: {self.n:,} of {self.total:,} {self.unit} ({share}), {rate:,.1f} {self.unit}/s, {left} left"
        )


class ProgressBar(tqdm):
    """A progress bar on a terminal."""

    def skip(self, n: int) -> None:
        """Add items that were completed before this loop. They do not count for the rate."""
        self.initial, self.n, self.last_print_n = self.initial + n, self.n + n, self.last_print_n + n


Progress = ProgressBar | ProgressLines


def show_progress(
    name: str, total: int, unit: str, *, position: int = 0, seconds: float = SECONDS, stream: TextIO | None = None
) -> Progress:
    """Return the progress display of a loop. Use it in a ``with`` block and call ``update`` after each item.

    Args:
        name: Description of the loop, such as "Encoding".
        total: Total number of items.
        unit: Name of the items, such as "passages", or "B" for bytes.
        position: Line of the bar if several processes share a terminal.
        seconds: Seconds between two lines if the stream is not a terminal.
        stream: Output stream. The default is stderr.

    >>> with show_progress("Encoding", 4, "passages", seconds=0, stream=sys.stdout) as progress:
    ...     progress.skip(3)
    ...     progress.update(1)  # doctest: +ELLIPSIS
    Encoding: 4 of 4 passages (100%), ... passages/s, 00:00 left
    """
    target = stream or sys.stderr
    if not target.isatty():
        return ProgressLines(name, total, unit, target, seconds)
    unit, is_scaled = (unit, True) if unit == "B" else (f" {unit}", False)
    return ProgressBar(
        desc=name,
        total=total,
        unit=unit,
        unit_scale=is_scaled,
        delay=_DELAY,
        leave=False,
        position=position or None,
        file=target,
    )


def show_file_progress(path: str, action: str) -> Progress:
    """Return the progress display of reading a file. Call ``update`` with the number of bytes read.

    Args:
        path: The file.
        action: Description of the loop, such as "Reading".
    """
    return show_progress(f"{action} {os.path.basename(path)}", os.path.getsize(path), "B")


def track(items: Collection[_Item], name: str, unit: str) -> Iterator[_Item]:
    """Yield the items of a loop and show its progress."""
    with show_progress(name, len(items), unit) as progress:
        for item in items:
            yield item
            progress.update()
