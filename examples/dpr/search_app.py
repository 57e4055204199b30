"""The web application of serve.py: a page for people, JSON for programs.

Searching, and where to listen, are left to others. An error is one line, on the page or as ``{"error": ...}``.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from examples.dpr.batching import Batcher, QueueFull
from examples.dpr.search_page import POLICY, Form, docs_page, error_part, found_part, search_page
from examples.dpr.searching import Asked, Search, SearchResult, search_all
from text import __version__

if TYPE_CHECKING:
    from examples.dpr.serve import ServeConfig

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer: the server adds them, so that none is without."""
RETRY_AFTER = 1
"""Seconds until a question that found the queue full should be asked again."""
GRACE = 10
"""Seconds that questions under way have when a signal has come."""
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Answered:
    question: str
    k: int
    seconds: float
    """From when the question came until it was answered, waiting included."""
    searches: list[SearchResult]


@dataclass(frozen=True, kw_only=True)
class Health:
    status: str
    waiting: int
    """Questions that are not being answered yet."""
    searches: list[str]


@dataclass(frozen=True, kw_only=True)
class Failure:
    error: str


def make_server(config: ServeConfig, searches: Sequence[Search]) -> uvicorn.Server:
    """The application in a server that knows its sockets when it runs."""
    settings = uvicorn.Config(
        make_app(config, searches),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,  # who asks what is nobody else's business
        server_header=False,
        headers=list(_HEADERS.items()),
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(settings)


def make_app(config: ServeConfig, searches: Sequence[Search]) -> FastAPI:
    """Routes to the searches; questions that come at the same time are answered together."""
    batcher = Batcher(partial(search_all, searches), max_batch=config.max_batch, queue_size=config.queue_size)
    about = f"{', '.join(dict.fromkeys(_in_words(search) for search in searches))}."
    of_q: Any = Query("", description=f"The question, at most {config.max_characters} characters.")
    of_k: Any = Query(config.k, ge=1, le=config.max_k, description=f"Passages of each search, 1 to {config.max_k}.")
    of_answer: Any = Query("", description="An answer, whose places in the passages are told; as words, in any case.")

    @asynccontextmanager
    async def open_batcher(app: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    app = FastAPI(
        title="Passage search",
        version=__version__,
        lifespan=open_batcher,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )

    async def answered(request: Request, q: str, k: int, answer: str) -> Answered:
        started = time.perf_counter()
        if (fault := _fault(q, answer, config.max_characters)) is not None:
            raise HTTPException(422, fault)
        try:
            found = await _unless_gone(request, batcher.ask(Asked(q, k, answer)))
        except QueueFull as error:
            raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER)}) from None
        return Answered(question=q, k=k, seconds=time.perf_counter() - started, searches=found)

    def page(request: Request, content: str = "", status: int = 200) -> HTMLResponse:
        values = request.query_params
        form = Form(
            question=values.get("q", ""),
            k=values.get("k", str(config.k)),
            answer=values.get("answer", ""),
            max_k=config.max_k,
            max_characters=config.max_characters,
        )
        return HTMLResponse(search_page(form, about, content), status)

    def failed(request: Request, status: int, message: str, headers: Any = None) -> Response:
        if request.url.path != "/":
            return JSONResponse({"error": message}, status, headers)
        response = page(request, error_part(message), status)
        response.headers.update(headers or {})
        return response

    @app.get("/", include_in_schema=False)
    async def show(request: Request, q: str | None = None, k: int = of_k, answer: str = of_answer) -> HTMLResponse:
        if q is None:
            return page(request)
        found = await answered(request, q, k, answer)
        return page(request, found_part(found.searches, found.seconds))

    @app.get("/search", responses={422: {"model": Failure}, 503: {"model": Failure}})
    async def search(request: Request, q: str = of_q, k: int = of_k, answer: str = of_answer) -> Answered:
        """The passages that fit a question best, by each search."""
        return await answered(request, q, k, answer)

    @app.get("/health")
    async def health() -> Health:
        """Whether questions are answered, and how many wait."""
        return Health(status="ok", waiting=len(batcher), searches=[search.name for search in searches])

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> Response:
        return failed(request, error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        found = str(error.errors()[0]["input"])[:40]  # of k, all else is text
        return failed(request, 422, f"k: {found!r}; expected an integer from 1 to {config.max_k}")

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return failed(request, 500, "the search failed; its log says why")

    return app


def _in_words(search: Search) -> str:
    return f"{len(search.collection):,} passages of {Path(search.collection.path).name}"


def _fault(q: str, answer: str, max_characters: int) -> str | None:
    """What keeps this from being a question, if anything does."""
    for name, text in (("question", q), ("answer", answer)):
        if len(text) > max_characters:
            return f"{name}: {len(text)} characters; expected at most {max_characters}"
        if "\ufffd" in text:  # where bytes could not be decoded
            return f"{name}: not UTF-8; expected UTF-8"
        control = next((sign for sign in text if unicodedata.category(sign) == "Cc" and not sign.isspace()), None)
        if control is not None:
            return f"{name}: control character U+{ord(control):04X}; expected text"
    is_seen = any(sign.isprintable() and not sign.isspace() for sign in q)
    return None if is_seen else "question: blank; expected a question"


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Does the work as long as somebody waits for it."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "whoever asked is gone")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
