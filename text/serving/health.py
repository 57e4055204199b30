"""Health of the searches. Clients read its messages, so these contain no paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from text.errors import ArtifactError, DataError
from text.serving.searches import Search

_LOGGER = logging.getLogger("text.serving")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ArtifactError, "The embeddings have changed since the server started, or are damaged."),
    (DataError, "The collection has changed since the server started, or is damaged."),
    (OSError, "A file of the search cannot be read."),
)


class Health:
    """Health of a list of searches: state of their files, and outcome of the last question."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = searches
        self._lock = asyncio.Lock()
        self._last_failure: str | None = None

    def record_success(self) -> None:
        """Record that a question was answered."""
        self._last_failure = None

    def record_failure(self, error: Exception) -> str | None:
        """Record that a question failed. Return the reason if a file of the search caused the error, or None."""
        reason = log_file_error(error)
        self._last_failure = reason or "The last search failed. The server log has the reason."
        return reason

    async def find_failure(self) -> str | None:
        """Check the files. Return the reason for a failure: a changed file, or the last question. None if healthy."""
        async with self._lock:  # Parallel checks could open too many files.
            return await asyncio.to_thread(self._check_files) or self._last_failure

    def _check_files(self) -> str | None:
        for search in self._searches:
            try:
                search.check()
            except (ArtifactError, DataError, OSError) as error:
                return log_file_error(error)
        return None


def log_file_error(error: Exception) -> str | None:
    """Log an error that a file caused and return one line for clients. Return None for any other error.

    The line leaves out the error's message, which contains paths and texts. Only the log, which the owner of the
    server reads, has it.
    """
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    if reason is None:
        return None
    _LOGGER.error("%s: %s", type(error).__name__, error)
    return f"{reason} The server log names the file. Restart the server."
