"""Lines about the counts and needs of a search."""

from __future__ import annotations

import warnings

import pytest

from text.errors import SettingsWarning
from text.retrieval.counts import log_bm25_memory


def test_the_memory_of_bm25_is_logged_if_it_is_a_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text.retrieval.counts.read_available_memory", lambda: 1 << 40)
    lines = list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_bm25_memory(90, lines.append)
        log_bm25_memory(21_015_324, lines.append)
    # 21,015,324 passages of 2,450 bytes
    assert lines == ["BM25 needs about 51.5 GB of memory for 21,015,324 passages"]


def test_too_little_memory_for_bm25_is_a_warning_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text.retrieval.counts.read_available_memory", lambda: 1000)
    with pytest.warns(SettingsWarning, match="--bm25_index"):
        log_bm25_memory(90, print)
