"""Whether the searches can answer, in words that name no path: clients read them."""

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
    """State of some searches: whether their files are as they were, and how the last question ended."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = searches
        self._lock = asyncio.Lock()
        self._last_failure: str | None = None

    def note_answer(self) -> None:
        """Note that a question was answered."""
        self._last_failure = None

    def note_failure(self, error: Exception) -> str | None:
        """Note that a question failed. Return the reason if it lies in a file of the search."""
        reason = report_failure(error)
        self._last_failure = reason or "The last search failed. The log of the server has the reason."
        return reason

    async def find_failure(self) -> str | None:
        """Check the files. Return why a question would fail, or why the last one failed; None if neither is so."""
        async with self._lock:  # One check at a time opens few files.
            return await asyncio.to_thread(self._check_files) or self._last_failure

    def _check_files(self) -> str | None:
        for search in self._searches:
            try:
                search.check()
            except (ArtifactError, DataError, OSError) as error:
                return report_failure(error)
        return None


def report_failure(error: Exception) -> str | None:
    """Log an error of a file, and return one line about it for clients. Return None for any other error.

    The line has no part of the error's message, which holds paths and texts. The log is for the owner of the server.
    """
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    if reason is None:
        return None
    _LOGGER.error("%s: %s", type(error).__name__, error)
    return f"{reason} The log of the server names the file. Start the server again."
