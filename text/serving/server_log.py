"""A log that clients cannot fill: few messages a minute, and no control characters.

Whoever sends requests decides how often a message comes, and may have written parts of its text.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TextIO

from text.errors import escape_controls

_MAX_CHARACTERS = 20_000
"""Maximum length of a message with its traceback."""
LOGGERS = ("asyncio", "text.serving", "uvicorn")


class BoundedHandler(logging.StreamHandler):
    """Write log messages to stderr. Of too many, write only how many were left out.

    Args:
        stream: By default stderr.
        max_messages: Maximum number of messages in each period.
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
        now = time.monotonic()
        if now >= self._end:
            self._left_out = max(0, self._num_messages - self._max_messages)
            self._end, self._num_messages = now + self._seconds, 0
        self._num_messages += 1
        if self._num_messages <= self._max_messages:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the message and its traceback with escapes for the characters that a terminal would obey."""
        message = f"{record.levelname}: {super().format(record)}"[:_MAX_CHARACTERS]
        lines = [escape_controls(line) for line in message.split("\n")]
        left_out, self._left_out = self._left_out, 0
        return "\n".join([*([f"{left_out:,} more messages were left out."] if left_out else []), *lines])


def log_settings() -> dict[str, Any]:
    """Return settings for ``logging.config.dictConfig``: all messages of a server go to one bounded handler."""
    logger = {"handlers": ["bounded"], "level": "WARNING", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"bounded": {"()": BoundedHandler}},
        "loggers": dict.fromkeys(LOGGERS, logger),
    }
