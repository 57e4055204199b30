"""Tests of the web application over real sockets: results, batches, HTML of the page, refused requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from test.helpers import texts
from test.serving.helpers import (
    HOSTILE,
    Page,
    get,
    make_bm25_search,
    make_site,
    run_server,
    server,
    wait_until,
)
from text.errors import DataError, UsageError
from text.retrieval import Hits, Retriever
from text.serving import Search, load_search


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def searches(site: Path) -> list[Search]:
    """Return an exact search, an approximate index and BM25."""
    pytest.importorskip("faiss")
    folders = (site / "model", site / "embeddings")
    exact = load_search(*folders, device="cpu")
    return [exact, load_search(*folders, name="<b>HNSW</b>", index="HNSW4", device="cpu"), make_bm25_search(exact)]


@pytest.fixture(scope="module")
def port(searches: list[Search]) -> Iterator[int]:
    with run_server(searches, k=5, max_k=20) as port:
        yield port


# ---- results


def list_hits(reply: Any) -> list[list[tuple[str, float]]]:
    """Return passage ids and scores of each search."""
    return [[(p["passage_id"], p["score"]) for p in each["passages"]] for each in reply["searches"]]


def test_results_equal_those_of_the_searches(port: int, site: Path, searches: list[Search]) -> None:
    retriever = Retriever.from_pretrained(site / "model", site / "embeddings")
    passages = {row["_id"]: row for row in map(json.loads, (site / "corpus.jsonl").read_text().splitlines())}
    for question, k in (("how tall is the oak", 3), ("<elm> & 'ash'", 20)):
        reply = get(port, "/search", q=question, k=k).json
        assert (reply["question"], reply["k"]) == (question, k)
        assert [each["name"] for each in reply["searches"]] == ["model", "<b>HNSW</b>", "BM25"]
        expected = [retriever.search([question], k)[0], *(search.find([question], k)[0] for search in searches[1:])]
        assert list_hits(reply) == [list(zip(*found, strict=True)) for found in expected]
        for passage in (passage for each in reply["searches"] for passage in each["passages"]):
            row = passages[passage["passage_id"]]
            assert (passage["title"], passage["text"]) == (row["title"], row["text"])


def test_answer_spans_are_the_occurrences_of_the_answer(port: int) -> None:
    reply = get(port, "/search", q="oak elm", answer="ELM", k=20).json
    texts_and_spans = [(p["text"], p["answer_spans"]) for each in reply["searches"] for p in each["passages"]]
    assert any(spans for _, spans in texts_and_spans)
    for text, spans in texts_and_spans:
        assert [text[start:end] for start, end in spans] == re.findall(r"\belm\b", text)


# ---- batches


class GatedSearch:
    """Search that blocks until its gate is open and records batch sizes. The question "bad" raises an error."""

    def __init__(self, search: Search) -> None:
        self.is_open, self.batches, self._search = threading.Event(), [], search

    def find(self, questions: Sequence[str], k: int) -> list[Hits]:
        self.batches.append(len(questions))
        self.is_open.wait()
        if "bad" in questions:
            raise DataError("/a/path: changed")
        return self._search.find(questions, k)


@contextmanager
def run_blocked_server(searches: list[Search], **limits: Any) -> Iterator[tuple[GatedSearch, int, ThreadPoolExecutor]]:
    """Yield a gated search that is busy with a first question, the port, and threads for clients."""
    gate = GatedSearch(searches[0])
    with (
        run_server([searches[0]._replace(find=gate.find), *searches[1:]], **limits) as port,
        ThreadPoolExecutor(64) as pool,
    ):
        try:
            pool.submit(get, port, "/search", q="first")
            wait_until(lambda: gate.batches == [1])
            yield gate, port, pool
        finally:
            gate.is_open.set()


def wait_for_queue(port: int, waiting: int) -> None:
    wait_until(lambda: get(port, "/health").json["waiting"] == waiting)


def test_a_batch_gives_the_same_replies_as_one_question_at_a_time(searches: list[Search]) -> None:
    """Mix questions, k, answers and invalid questions. Only scores may differ, by rounding errors."""
    mix = [
        {"q": text if number % 7 else " ", "k": 1 + number % 19, "answer": "oak" if number % 3 else ""}
        for number, text in enumerate(texts(40))
    ]
    with run_blocked_server(searches, max_batch=64) as (gate, port, pool):
        replies = [pool.submit(get, port, "/search", **each) for each in mix]
        wait_for_queue(port, 34)
        gate.is_open.set()
        together = [reply.result() for reply in replies]
        assert gate.batches == [1, 34]
        alone = [get(port, "/search", **each) for each in mix]
    assert [reply.status for reply in together] == [422 if number % 7 == 0 else 200 for number in range(40)]
    for one, other in zip(alone, together, strict=True):
        assert without_scores(one.json) == without_scores(other.json)
        if one.status == 200:
            for a, b in zip(list_hits(one.json), list_hits(other.json), strict=True):
                assert [score for _, score in a] == pytest.approx([score for _, score in b], abs=1e-5)


def without_scores(reply: Any) -> Any:
    """Return a reply without scores and times."""
    if isinstance(reply, dict):
        return {name: without_scores(value) for name, value in reply.items() if name not in ("score", "seconds")}
    return [without_scores(value) for value in reply] if isinstance(reply, list) else reply


def test_a_full_queue_gives_503_with_a_retry_after_header(searches: list[Search]) -> None:
    with run_blocked_server(searches, queue_size=2) as (gate, port, pool):
        waiting = [pool.submit(get, port, "/search", q=question) for question in ("oak", "elm")]
        wait_for_queue(port, 2)
        refused = get(port, "/search", q="ash")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert re.search(r"\b2\b", refused.error)
        on_page = get(port, "/", q="ash")
        assert (on_page.status, on_page.headers["Retry-After"]) == (503, "1")
        assert refused.error in Page(on_page.text).texts
        gate.is_open.set()
        assert [reply.result().status for reply in waiting] == [200, 200]
        assert get(port, "/search", q="ash").status == 200
        assert gate.batches == [1, 2, 1]


def test_a_client_that_disconnects_removes_its_question(searches: list[Search]) -> None:
    with run_blocked_server(searches) as (gate, port, _):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /search?q=oak HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for_queue(port, 1)
        wait_for_queue(port, 0)
        gate.is_open.set()
        assert get(port, "/search", q="elm").status == 200
        assert gate.batches == [1, 1]


def test_a_failed_search_fails_only_its_own_question(searches: list[Search], capfd: Any) -> None:
    with run_blocked_server(searches) as (gate, port, pool):
        replies = [pool.submit(get, port, "/search", q=question) for question in ("oak", "bad", "elm")]
        wait_for_queue(port, 3)
        gate.is_open.set()
        oak, bad, elm = (reply.result() for reply in replies)
        assert (oak.status, bad.status, elm.status) == (200, 503, 200)
        assert "path" not in bad.error  # Only the log has the reason.
        assert bad.headers["Content-Security-Policy"]
        page = get(port, "/", q="bad")
        assert page.status == 503 and bad.error in Page(page.text).texts
        assert get(port, "/search", q="oak").status == 200
    assert "DataError: /a/path: changed" in capfd.readouterr().err


# ---- the page as HTML


def test_html_in_texts_is_escaped(port: int) -> None:
    question = "<script>alert('oak')</script> \" onfocus=alert(1) \u05d0 \U0001f333 &lt;"
    reply = get(port, "/", q=question, answer='"oak"', k=20)
    page = Page(reply.text)
    assert set(page.tags) <= set(
        "html head meta title link style body header h1 a search form label input button main p nav div section h2 "
        "span ol li h3 mark bdi footer".split()
    )
    assert page.values == [question, '"oak"', "20"]
    for name, title, text in HOSTILE:
        assert {name, title or "no title", text} <= set(page.texts)
    assert f"{question} \u2013 Passage search" in page.texts and "<b>HNSW</b>" in page.texts
    assert not re.search(
        r"(src|href|action)=(?!\"(\./|docs|openapi\.json|#|data:))|@import|url\(", reply.text.split("</header>")[0]
    )


def test_the_answer_is_marked(port: int) -> None:
    assert set(Page(get(port, "/", q="oak", answer="OAK", k=20).text).marks) == {"oak"}
    assert Page(get(port, "/", q="oak", answer="</mark><script>", k=20).text).marks == []
    assert set(Page(get(port, "/", q="oak", answer="< script > ALERT", k=20).text).marks) == {"<script>alert"}
    assert set(Page(get(port, "/", q="oak", answer="</p><script>", k=20).text).marks) == {"</p><script>"}


def test_a_search_without_results_says_so(port: int) -> None:
    page = get(port, "/", q="xylophone")
    assert page.status == 200 and Page(page.text).texts.count("Nothing found.") == 1  # BM25
    assert [len(each) for each in list_hits(get(port, "/search", q="xylophone").json)] == [5, 5, 0]


@pytest.mark.parametrize("path", ["/", "/?q=oak", "/?q=", "/search?q=oak", "/search", "/docs", "/health", "/nowhere"])
def test_every_response_has_security_headers(port: int, path: str) -> None:
    headers = get(port, path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] is None


@pytest.mark.parametrize("path", ["/", "/?q=oak", "/?q=", "/docs"])
def test_the_content_security_policy_allows_the_style_sheet(port: int, path: str) -> None:
    reply = get(port, path)
    [style] = re.findall(r"<style>(.*?)</style>", reply.text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in reply.headers["Content-Security-Policy"]
    assert "style=" not in reply.text and "<script" not in reply.text


def test_openapi_and_docs_pages_describe_the_interface(port: int) -> None:
    described = get(port, "/openapi.json").json
    assert set(described["paths"]) == {"/search", "/health"}
    assert [each["name"] for each in described["paths"]["/search"]["get"]["parameters"]] == ["q", "k", "answer"]
    page = Page(get(port, "/docs").text)
    assert "GET /search" in page.texts and any("1 to 20" in each for each in page.texts) and "script" not in page.tags
    assert {"q", "k", "answer"} <= set(page.texts) and "input" not in page.tags
    assert get(port, "/health").json["searches"][2] == "BM25"


# ---- requests that are refused


@pytest.mark.parametrize(
    ("query", "field", "problem"),
    [
        ("", "question", ""),
        ("q=", "question", ""),
        ("q=%20%0A", "question", ""),
        ("q=%E2%80%8B", "question", ""),  # zero-width space
        (f"q={'a' * 1001}", "question", "1001"),
        (f"q=a&answer={'a' * 1001}", "answer", "1001"),
        ("q=a%00b", "question", "U+0000"),
        ("q=%1B[31m", "question", "U+001B"),
        ("q=%FF", "question", "UTF-8"),
        ("q=%ED%A0%80", "question", "UTF-8"),
        ("q=a&answer=%FF", "answer", "UTF-8"),
        ("q=a&k=0", "k", "'0'"),
        ("q=a&k=21", "k", "'21'"),
        ("q=a&k=-1", "k", "'-1'"),
        ("q=a&k=", "k", "''"),
        ("q=a&k=<b>", "k", "'<b>'"),
        (f"q=a&k={'9' * 5000}", "k", f"'{'9' * 40}'"),
    ],
)
def test_an_invalid_parameter_gives_422_with_field_and_problem(port: int, query: str, field: str, problem: str) -> None:
    reply = get(port, f"/search?{quote(query, safe='=&%')}")
    assert reply.status == 422
    assert reply.error.startswith(f"{field}: ") and problem in reply.error
    assert field != "k" or "20" in reply.error
    page = get(port, f"/?{quote(query, safe='=&%') or 'q='}")
    assert page.status == 422
    assert reply.error in Page(page.text).texts and "<b>" not in page.text


def test_a_question_with_60000_characters_is_refused(port: int) -> None:
    reply = get(port, "/search", q="a" * 60_000)
    assert reply.status == 422 and reply.error.startswith("question: ")
    assert "60000" in reply.error and "1000" in reply.error


def test_unknown_paths_and_methods_are_refused(port: int) -> None:
    assert get(port, "/nowhere").status == 404
    assert get(port, "/nowhere").error
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 405")


def test_is_truncated_is_true_for_questions_above_the_maximum_length(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    search = load_search(site / "model", site / "embeddings", device="cpu")
    assert [search.is_truncated(question) for question in ("oak", "oak " * 40)] == [False, True]


# ---- sockets


def test_an_ipv4_address_is_formatted_for_urls() -> None:
    with server.bind_socket("127.0.0.1", 0) as listener:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.format_address(listener))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_formatted_with_brackets() -> None:
    with server.bind_socket("::1", 0) as listener:
        assert re.fullmatch(r"\[::1\]:\d+", server.format_address(listener))


def test_a_port_is_in_use_before_its_server_runs() -> None:
    with server.bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^127\.0\.0\.1:{port}: .*--port"):
            server.bind_socket("127.0.0.1", port)
    server.bind_socket("127.0.0.1", port).close()  # A closed port is free again.


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b", "x" * 300])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=rf"^{re.escape(host)}:0: .*--host"):
        server.bind_socket(host, 0)
