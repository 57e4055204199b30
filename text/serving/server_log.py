"""A log with a rate limit and escaped control characters.

Clients cause log messages and can write parts of their text. They must be able neither to fill the log nor to send
control sequences to a terminal.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TextIO

from text.errors import escape_controls

_MAX_CHARACTERS = 20_000
"""Maximum length of a message with its traceback."""
LOGGERS = ("asyncio", "text.serving", "uvicorn")
"""Loggers of the server."""


class BoundedHandler(logging.StreamHandler):
    """Log handler with a maximum number of messages per period. Later messages are counted and dropped.

    Args:
        stream: Stream to write to. By default stderr.
        max_messages: Maximum number of messages per period.
        seconds: Length of a period.
    """

    def __init__(self, stream: TextIO | None = None, *, max_messages: int = 20, seconds: float = 60) -> None:
        super().__init__(stream)
        self._max_messages = max_messages
        self._seconds = seconds
        self._end = 0.0
        self._num_messages = 0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless the period already has the maximum number of messages."""
        now = time.monotonic()
        if now >= self._end:
            self._left_out = max(0, self._num_messages - self._max_messages)
            self._end, self._num_messages = now + self._seconds, 0
        self._num_messages += 1
        if self._num_messages <= self._max_messages:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the message and its traceback with control characters escaped."""
        message = f"{record.levelname}: {super().format(record)}"[:_MAX_CHARACTERS]
        lines = [escape_controls(line) for line in message.split("\n")]
        left_out, self._left_out = self._left_out, 0
        return "\n".join([*([f"{left_out:,} more messages were left out."] if left_out else []), *lines])


def build_log_config() -> dict[str, Any]:
    """Return a configuration for ``logging.config.dictConfig`` with one bounded handler for all server messages."""
    logger = {"handlers": ["bounded"], "level": "WARNING", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"bounded": {"()": BoundedHandler}},
        "loggers": dict.fromkeys(LOGGERS, logger),
    }
