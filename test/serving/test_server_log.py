"""Tests of the server log: rate limit and escaped control characters."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from text.serving import server_log


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.getLogger("test_server_log")
    handler = server_log.BoundedHandler(stream, max_messages=2, seconds=10)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_a_period_has_a_maximum_of_messages_and_the_next_one_counts_the_rest(
    logger: logging.Logger, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in (100, 101, 109, 109.9, 110, 121, 122, 131):
        monkeypatch.setattr(server_log.time, "monotonic", lambda now=now: now)
        logger.error("at %s", now)
    assert stream.getvalue().splitlines() == [
        "ERROR: at 100",
        "ERROR: at 101",
        "2 more messages were left out.",
        "ERROR: at 110",
        "ERROR: at 121",
        "ERROR: at 122",
        "ERROR: at 131",
    ]


def test_control_characters_are_escaped_even_in_tracebacks(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise RuntimeError("\x1b[2J\u202e")
    except RuntimeError as error:
        logger.error("failed \x1b]0;title\x07", exc_info=error)
    assert stream.getvalue().startswith(r"ERROR: failed \x1b]0;title\x07" + "\nTraceback")
    assert stream.getvalue().endswith("RuntimeError: \\x1b[2J\\u202e\n")


def test_a_message_has_a_maximum_length(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.error("a" * 100_000)
    assert 10_000 < len(stream.getvalue()) < 30_000
