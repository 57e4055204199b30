"""serve.py over real sockets: the same as the search itself, however many ask; what it refuses; how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from benchmarks.kills import fork
from examples.dpr import encode, serve
from examples.dpr.cli import run
from examples.dpr.searching import Search
from test.retrieval.conftest import save_model, texts
from text.errors import DataError
from text.retrieval import Found, Retriever

pytest.importorskip("uvicorn")
search_app = pytest.importorskip("examples.dpr.search_app")

HOSTILE = [
    (
        '"><img src=x onerror=alert(1)>',
        "<script>alert(1)</script>",
        "oak </p><script>alert(2)</script> & 'elm' \"ash\"",
    ),
    (
        "rtl",
        "\u05e9\u05dc\u05d5\u05dd \u202e live",
        "\u0639\u0631\u0628\u064a oak \U0001f333\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301",
    ),
    ("&amp;", "", "&lt;mark&gt; oak <mark>elm</mark>"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("serve"))


def make(folder: Path) -> Path:
    """A model, passages that would break a page, and what the model made of them."""
    save_model(folder / "model", seed=0)
    rows = [*HOSTILE, *((f"p{n}", f"title {n}", text) for n, text in enumerate(texts(30)))]
    lines = [json.dumps({"_id": name, "title": title, "text": text}) + "\n" for name, title, text in rows]
    (folder / "corpus.jsonl").write_text("".join(lines))
    flags = [f"--model={folder}/model", f"--collection={folder}/corpus.jsonl", f"--output_dir={folder}/embeddings"]
    assert run(encode.main, encode.EncodeConfig, flags) == 0
    return folder


def config_of(made: Path, **flags: Any) -> serve.ServeConfig:
    return serve.ServeConfig(model=f"{made}/model", embeddings=f"{made}/embeddings", device="cpu", **flags)


@pytest.fixture(scope="module")
def searches(made: Path) -> list[Search]:
    """Exact, by an index, and by words."""
    pytest.importorskip("faiss")
    exact, by_words = serve.searches_of(config_of(made, bm25=True))
    [by_index] = serve.searches_of(config_of(made, index="HNSW4"))
    return [exact, by_index._replace(name="<b>HNSW</b>"), by_words]


@contextmanager
def served(config: serve.ServeConfig, searches: Sequence[Search]) -> Iterator[int]:
    """A port at which it is served."""
    server = search_app.make_server(config, searches)
    with serve.bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(made: Path, searches: list[Search]) -> Iterator[int]:
    with served(config_of(made, k=5, max_k=20), searches) as port:
        yield port


class Reply(NamedTuple):
    status: int
    headers: HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.text)


def get(port: int, path: str, **parameters: Any) -> Reply:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"{path}?{urlencode(parameters)}" if parameters else path)
    with connection.getresponse() as response:
        reply = Reply(response.status, response.headers, response.read().decode())
    connection.close()
    return reply


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.005)


# ---- what is found


def found_by(reply: Any) -> list[list[tuple[str, float]]]:
    return [[(p["passage_id"], p["score"]) for p in each["passages"]] for each in reply["searches"]]


def test_equals_the_search_itself(port: int, made: Path, searches: list[Search]) -> None:
    retriever = Retriever.from_pretrained(made / "embeddings", made / "model")
    passages = {row["_id"]: row for row in map(json.loads, (made / "corpus.jsonl").read_text().splitlines())}
    for question, k in (("how tall is the oak", 3), ("<elm> & 'ash'", 20)):
        reply = get(port, "/search", q=question, k=k).json
        assert (reply["question"], reply["k"]) == (question, k)
        assert [each["name"] for each in reply["searches"]] == [f"{made}/model", "<b>HNSW</b>", "BM25"]
        expected = [retriever.search([question], k)[0], *(search.find([question], k)[0] for search in searches[1:])]
        assert found_by(reply) == [list(zip(*found, strict=True)) for found in expected]
        for passage in (passage for each in reply["searches"] for passage in each["passages"]):
            row = passages[passage["passage_id"]]
            assert (passage["title"], passage["text"]) == (row["title"], row["text"])


def test_tells_where_an_answer_stands(port: int) -> None:
    reply = get(port, "/search", q="oak elm", answer="ELM", k=20).json
    texts_and_spans = [(p["text"], p["answer_spans"]) for each in reply["searches"] for p in each["passages"]]
    assert any(spans for _, spans in texts_and_spans)
    for text, spans in texts_and_spans:
        assert [text[start:end] for start, end in spans] == re.findall(r"\belm\b", text)


# ---- more questions than can be answered


class Gate:
    """A search whose worker waits at a gate; keeps how many came at once; cannot find what is bad."""

    def __init__(self, search: Search) -> None:
        self.is_open, self.batches, self._search = threading.Event(), [], search

    def find(self, questions: Sequence[str], k: int) -> list[Found]:
        self.batches.append(len(questions))
        self.is_open.wait()
        if "bad" in questions:
            raise DataError("/a/path: changed")
        return self._search.find(questions, k)


@contextmanager
def blocked(made: Path, searches: list[Search], **flags: int) -> Iterator[tuple[Gate, int, ThreadPoolExecutor]]:
    """A gate whose worker has a first question, the port, and threads to ask in."""
    gate = Gate(searches[0])
    with (
        served(config_of(made, **flags), [searches[0]._replace(find=gate.find), *searches[1:]]) as port,
        ThreadPoolExecutor(64) as pool,
    ):
        try:
            pool.submit(get, port, "/search", q="first")
            until(lambda: gate.batches == [1])
            yield gate, port, pool
        finally:
            gate.is_open.set()


def wait_for(port: int, waiting: int) -> None:
    until(lambda: get(port, "/health").json["waiting"] == waiting)


def test_together_as_one_at_a_time(made: Path, searches: list[Search]) -> None:
    """However questions, k, answers and mistakes are mixed: only a score may round differently."""
    mix = [
        {"q": text if number % 7 else " ", "k": 1 + number % 19, "answer": "oak" if number % 3 else ""}
        for number, text in enumerate(texts(40))
    ]
    with blocked(made, searches, max_batch=64) as (gate, port, pool):
        replies = [pool.submit(get, port, "/search", **each) for each in mix]
        wait_for(port, 34)
        gate.is_open.set()
        together = [reply.result() for reply in replies]
        assert gate.batches == [1, 34]
        alone = [get(port, "/search", **each) for each in mix]
    assert [reply.status for reply in together] == [422 if number % 7 == 0 else 200 for number in range(40)]
    for one, other in zip(alone, together, strict=True):
        assert without_scores(one.json) == without_scores(other.json)
        if one.status == 200:
            for a, b in zip(found_by(one.json), found_by(other.json), strict=True):
                assert [score for _, score in a] == pytest.approx([score for _, score in b], abs=1e-5)


def without_scores(reply: Any) -> Any:
    """Nor times."""
    if isinstance(reply, dict):
        return {name: without_scores(value) for name, value in reply.items() if name not in ("score", "seconds")}
    return [without_scores(value) for value in reply] if isinstance(reply, list) else reply


def test_a_full_queue_says_when_to_come_again(made: Path, searches: list[Search]) -> None:
    with blocked(made, searches, queue_size=2) as (gate, port, pool):
        waiting = [pool.submit(get, port, "/search", q=question) for question in ("oak", "elm")]
        wait_for(port, 2)
        refused = get(port, "/search", q="ash")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json == {"error": "2 questions wait; expected fewer, later"}
        on_page = get(port, "/", q="ash")
        assert (on_page.status, on_page.headers["Retry-After"]) == (503, "1")
        assert "2 questions wait" in on_page.text
        gate.is_open.set()
        assert [reply.result().status for reply in waiting] == [200, 200]
        assert get(port, "/search", q="ash").status == 200
        assert gate.batches == [1, 2, 1]


def test_who_goes_away_takes_the_question_along(made: Path, searches: list[Search]) -> None:
    with blocked(made, searches) as (gate, port, _):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /search?q=oak HTTP/1.1\r\nHost: here\r\n\r\n")
            wait_for(port, 1)
        wait_for(port, 0)
        gate.is_open.set()
        assert get(port, "/search", q="elm").status == 200
        assert gate.batches == [1, 1]


def test_an_error_reaches_its_question_alone(made: Path, searches: list[Search], capfd: Any) -> None:
    with blocked(made, searches) as (gate, port, pool):
        replies = [pool.submit(get, port, "/search", q=question) for question in ("oak", "bad", "elm")]
        wait_for(port, 3)
        gate.is_open.set()
        oak, bad, elm = (reply.result() for reply in replies)
        assert (oak.status, bad.status, elm.status) == (200, 500, 200)
        assert bad.json == {"error": "the search failed; its log says why"}
        assert bad.headers["Content-Security-Policy"]
        page = get(port, "/", q="bad")
        assert page.status == 500 and "the search failed; its log says why" in page.text
        assert get(port, "/search", q="oak").status == 200
    assert "DataError: /a/path: changed" in capfd.readouterr().err


# ---- what is shown


class Texts(HTMLParser):
    """Texts and elements of a page, and values of its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.tags, self.values, self.marks = [""], [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for name, value in attrs if name == "value"]
        self.texts += [] if tag == "mark" else [""]
        self.marks += [""] if tag == "mark" else []

    def handle_endtag(self, tag: str) -> None:
        self.texts += [] if tag == "mark" else [""]

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data
        if self.marks and self.tags[-1] == "mark" and not self.marks[-1]:
            self.marks[-1] = data


def test_nothing_that_is_shown_is_html(port: int) -> None:
    question = "<script>alert('oak')</script> \" onfocus=alert(1) \u05d0 \U0001f333 &lt;"
    reply = get(port, "/", q=question, answer='"oak"', k=20)
    page = Texts(reply.text)
    assert set(page.tags) <= set(
        "html meta title link style header h1 a search form label input button main p nav div section h2 span ol li h3 "
        "mark bdi footer".split()
    )
    assert page.values == [question, '"oak"', "20"]
    for name, title, text in HOSTILE:
        assert {name, title or "no title", text} <= set(page.texts)
    assert f"{question} \u2013 Passage search" in page.texts and "<b>HNSW</b>" in page.texts
    assert not re.search(
        r"(src|href|action)=(?!\"(\./|docs|openapi\.json|#|data:))|@import|url\(", reply.text.split("</header>")[0]
    )


def test_an_answer_is_marked(port: int) -> None:
    assert set(Texts(get(port, "/", q="oak", answer="OAK", k=20).text).marks) == {"oak"}
    assert Texts(get(port, "/", q="oak", answer="</mark><script>", k=20).text).marks == []
    assert set(Texts(get(port, "/", q="oak", answer="< script > ALERT", k=20).text).marks) == {"<script>alert"}
    assert set(Texts(get(port, "/", q="oak", answer="</p><script>", k=20).text).marks) == {"</p><script>"}


def test_nothing_found_is_said(port: int) -> None:
    page = get(port, "/", q="xylophone")
    assert page.status == 200 and page.text.count("Nothing found.") == 1  # by words
    assert [len(each) for each in found_by(get(port, "/search", q="xylophone").json)] == [5, 5, 0]


@pytest.mark.parametrize("path", ["/", "/?q=oak", "/?q=", "/search?q=oak", "/search", "/docs", "/health", "/nowhere"])
def test_a_browser_is_told_to_load_nothing(port: int, path: str) -> None:
    headers = get(port, path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] is None


def test_the_interface_describes_itself(port: int) -> None:
    described = get(port, "/openapi.json").json
    assert set(described["paths"]) == {"/search", "/health"}
    assert [each["name"] for each in described["paths"]["/search"]["get"]["parameters"]] == ["q", "k", "answer"]
    page = get(port, "/docs")
    assert "GET /search" in page.text and "1 to 20" in page.text and "script" not in page.text
    assert get(port, "/health").json["searches"][2] == "BM25"


# ---- what is refused


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", "question: blank; expected a question"),
        ("q=", "question: blank; expected a question"),
        ("q=%20%0A", "question: blank; expected a question"),
        ("q=%E2%80%8B", "question: blank; expected a question"),  # a space without width
        (f"q={'a' * 1001}", "question: 1001 characters; expected at most 1000"),
        (f"q=a&answer={'a' * 1001}", "answer: 1001 characters; expected at most 1000"),
        ("q=a%00b", "question: control character U+0000; expected text"),
        ("q=%1B[31m", "question: control character U+001B; expected text"),
        ("q=%FF", "question: not UTF-8; expected UTF-8"),
        ("q=%ED%A0%80", "question: not UTF-8; expected UTF-8"),
        ("q=a&answer=%FF", "answer: not UTF-8; expected UTF-8"),
        ("q=a&k=0", "k: '0'; expected an integer from 1 to 20"),
        ("q=a&k=21", "k: '21'; expected an integer from 1 to 20"),
        ("q=a&k=-1", "k: '-1'; expected an integer from 1 to 20"),
        ("q=a&k=", "k: ''; expected an integer from 1 to 20"),
        ("q=a&k=<b>", "k: '<b>'; expected an integer from 1 to 20"),
        (f"q=a&k={'9' * 5000}", f"k: '{'9' * 40}'; expected an integer from 1 to 20"),
    ],
)
def test_what_is_refused(port: int, query: str, error: str) -> None:
    reply = get(port, f"/search?{quote(query, safe='=&%')}")
    assert (reply.status, reply.json) == (422, {"error": error})
    page = get(port, f"/?{quote(query, safe='=&%') or 'q='}")
    assert page.status == 422
    assert error in Texts(page.text).texts and "<b>" not in page.text


def test_a_question_as_long_as_a_book(port: int) -> None:
    reply = get(port, "/search", q="a" * 60_000)
    assert (reply.status, reply.json["error"]) == (422, "question: 60000 characters; expected at most 1000")


def test_other_paths_and_methods(port: int) -> None:
    assert get(port, "/nowhere").status == 404
    assert get(port, "/nowhere").json == {"error": "Not Found"}
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 405")


def test_flags_that_cannot_be_meant(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*flags: str) -> tuple[int, str]:
        code = run(serve.main, serve.ServeConfig, flags)
        [line] = capsys.readouterr().err.splitlines()
        return code, line.partition("error: ")[2]

    assert fails("--other_model=a") == (2, "expected --other_model together with --other_embeddings")
    assert fails("--k=101") == (2, "--k is 101; expected 1 to --max_k, 100")
    assert fails("--queue_size=0") == (2, "--queue_size is 0; expected 1 or more")
    assert fails("--port=65536") == (2, "--port is 65536; expected 0 to 65535")
    assert fails("--index_parameters=efSearch=1") == (2, "--index_parameters are those of --index; expected it, too")
    flags = [f"--model={made}/model", f"--embeddings={made}/embeddings", "--device=cpu"]
    with serve.bound("127.0.0.1", 0) as taken:
        taken.listen()
        code, line = fails(*flags, f"--port={taken.getsockname()[1]}")
    assert code == 4
    assert re.fullmatch(r"127\.0\.0\.1:\d+: address already in use; expected a free one of this machine", line)
    path = made / "corpus.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"title 3", b"title 4"))
    code, line = fails(*flags, "--port=0")
    path.write_bytes(before)
    assert code == 5 and line.endswith("changed since it was encoded; expected the same passages")


# ---- how it is started, and ends


def test_searches_are_named_apart(made: Path) -> None:
    other = {"other_model": f"{made}/model", "other_embeddings": f"{made}/./embeddings"}
    names = [search.name for search in serve.searches_of(config_of(made, bm25=True, **other))]
    assert names == [f"{made}/embeddings", f"{made}/./embeddings", "BM25"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_was_asked_is_answered(made: Path, tmp_path: Path, number: signal.Signals) -> None:
    def slow() -> int:
        search = Retriever.search

        def wait(*arguments: Any, **options: Any) -> list[Found]:
            (tmp_path / "asked").touch()
            until((tmp_path / "go").exists)
            return search(*arguments, **options)

        setattr(Retriever, "search", wait)  # noqa: B010
        flags = [f"--model={made}/model", f"--embeddings={made}/embeddings", "--device=cpu", "--port=0"]
        return run(serve.main, serve.ServeConfig, flags)

    pid = fork(slow, tmp_path / "log")
    until(lambda: (tmp_path / "log").is_file() and "\n" in (tmp_path / "log").read_text())
    [port] = re.findall(r":(\d+)/$", (tmp_path / "log").read_text().splitlines()[-1])
    until(lambda: answers(int(port)))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(get, int(port), "/search", q="oak")
        until((tmp_path / "asked").exists)
        os.kill(pid, number)
        until(lambda: not answers(int(port)))
        (tmp_path / "go").touch()
        assert reply.result().status == 200
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    *_, line = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(f"error: stopped by {number.name}; nothing is served any more")
    assert "Traceback" not in (tmp_path / "log").read_text()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
