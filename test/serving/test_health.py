"""Tests of the health check, with files that change while the server runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from test.serving.helpers import Page, get, make_site, run_server
from text.retrieval import Hits
from text.serving import Search, load_search


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def search(site: Path) -> Search:
    return load_search(site / "model", site / "embeddings", device="cpu")


def check_failure(port: int, hidden: Path) -> None:
    """Check that page, search and health check give status 503 and an error message without the hidden path."""
    found, page, state = get(port, "/search", q="oak"), get(port, "/", q="oak"), get(port, "/health")
    assert [found.status, page.status, state.status] == [503] * 3
    assert found.error in Page(page.text).texts
    assert state.json["status"] == "failed" and state.json["reason"] == found.error
    assert not any(str(hidden) in reply.text for reply in (found, page, state))


def check_success(port: int) -> None:
    assert get(port, "/search", q="oak").status == 200
    state = get(port, "/health")
    assert state.status == 200 and state.json["status"] == "ok"


def test_a_missing_collection_fails_searches_until_it_is_restored(site: Path, search: Search, capfd: Any) -> None:
    with run_server([search]) as port:
        check_success(port)
        (site / "corpus.jsonl").rename(site / "elsewhere")
        check_failure(port, site)
        (site / "elsewhere").rename(site / "corpus.jsonl")
        check_success(port)
    log = capfd.readouterr().err
    assert f"{site}/corpus.jsonl" in log and "Traceback" not in log


@pytest.mark.parametrize("name", ["corpus.jsonl", "embeddings/shard-00000.npy"])
def test_a_changed_file_fails_searches(site: Path, search: Search, capfd: Any, name: str) -> None:
    status = os.stat(site / name)
    with run_server([search]) as port:
        os.utime(site / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert get(port, "/health").status == 503  # even before the first question
        check_failure(port, site)
        os.utime(site / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        check_success(port)
    log = capfd.readouterr().err
    assert str(site / name) in log and "Traceback" not in log


def test_an_unexpected_error_makes_the_server_unhealthy_until_the_next_success(
    site: Path, search: Search, capfd: Any
) -> None:
    def find(questions: Sequence[str], k: int) -> list[Hits]:
        if "bad" in questions:
            raise RuntimeError(f"{site}: \x1b[2J")
        return search.find(questions, k)

    with run_server([search._replace(find=find)]) as port:
        failed = get(port, "/search", q="bad")
        assert failed.status == 500 and str(site) not in failed.text
        state = get(port, "/health")
        assert state.status == 503 and state.json["status"] == "failed" and str(site) not in state.text
        check_success(port)
    log = capfd.readouterr().err
    assert "RuntimeError" in log and "\x1b" not in log


def test_no_response_contains_a_path(site: Path, search: Search) -> None:
    with run_server([search]) as port:
        for path in ("/", "/?q=oak", "/search?q=oak", "/health", "/docs", "/openapi.json", "/nowhere", "/search"):
            assert str(site) not in get(port, path).text
