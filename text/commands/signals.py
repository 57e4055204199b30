"""Turn stop signals into an exception, so that temporary files are removed and locks are released.

``text.training`` replaces these handlers while it can save a checkpoint. ``dpr-text serve`` replaces them while its
server runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import Any

from text.errors import InterruptedRun

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals from a scheduler, Ctrl-C, a terminal that closes, and SLURM or dpr-text loop."""
_REPEAT_SECONDS = 1.0
"""Period after a signal in which further signals are ignored. ``timeout`` and terminals signal a process twice: alone
and as part of its group."""


@contextmanager
def raise_on_signals(program: str, start: CodeType) -> Iterator[None]:
    """Raise ``InterruptedRun`` in the main thread at the first signal. A later signal ends the process at once.

    A signal during an import prints one line and ends the process, because C++ libraries may abort or swallow an
    exception while they are imported. Ignored signals stay ignored, as ``nohup`` requires.

    Args:
        program: Program name at the start of the line.
        start: Code object of the function that calls the command. Imports that began before it do not count.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        interrupt = _Interrupt(program, start)
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Interrupt:
    """Signal handler of the main process and its forked workers."""

    def __init__(self, program: str, start: CodeType) -> None:
        self._program, self._start = program, start
        self._process = os.getpid()
        self._received_at: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _end_worker(number)
        elif self._received_at is None:
            self._received_at = time.monotonic()
            message = f"stopped by {signal.Signals(number).name}; run the same command again"
            if _is_importing(frame, self._start):
                _exit(f"{self._program}: error: {message}")
            raise InterruptedRun(message)
        elif time.monotonic() - self._received_at > _REPEAT_SECONDS:
            _end_process(number)


def _is_importing(frame: FrameType | None, start: CodeType) -> bool:
    """Return whether a frame belongs to an import that began after ``start`` did."""
    while frame is not None and frame.f_code is not start:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _exit(line: str) -> None:
    """Print a line on stderr and end the process with exit code 143."""
    with suppress(Exception):
        print(line, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(143)


def _end_worker(number: int) -> None:
    """End a forked worker. Its parent receives Ctrl-C as well and reports it."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    _end_process(number)


def _end_process(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
