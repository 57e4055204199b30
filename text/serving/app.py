"""The web application: a search page for people and JSON for programs.

An error is one line, on the page or as ``{"error": "..."}``. ``text/serving/searches.py`` runs the searches, and
``text/serving/server.py`` runs the application on a socket.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from text import __version__
from text.errors import explain_missing
from text.serving.batcher import Batcher, QueueFull
from text.serving.health import Health
from text.serving.hosts import HostCheck
from text.serving.pages import SearchPage, render_docs_page, render_search_page
from text.serving.searches import Search, SearchRequest, SearchResult, search_all

with explain_missing("serve"):
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.exceptions import HTTPException as StarletteHTTPException

RETRY_AFTER = 1
"""Seconds until a client should repeat a question that found the queue full."""
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Settings of FastAPI that keep questions on this machine."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class SearchResponse:
    """Reply to a question."""

    question: str
    k: int
    seconds: float
    """Time from the question to its results, waiting included."""
    searches: list[SearchResult]


@dataclass(frozen=True, kw_only=True)
class HealthResponse:
    """State of the server."""

    status: Literal["ok", "failed"]
    """"failed", with status 503, if a question would fail or the last one failed."""
    reason: str = ""
    """Why a question would fail."""
    waiting: int
    """Number of questions in the queue."""
    searches: list[str]
    """Names of the searches."""


@dataclass(frozen=True, kw_only=True)
class ErrorResponse:
    """Reply to a request that failed."""

    error: str


def make_app(
    searches: Sequence[Search],
    *,
    k: int,
    max_k: int,
    max_characters: int,
    max_batch: int,
    queue_size: int,
    allowed_hosts: frozenset[str] = frozenset(),
) -> FastAPI:
    """Build the web application of one or more searches. Questions that wait at the same time are searched together.

    Args:
        searches: Searches that answer each question side by side.
        k: Number of passages for a question that does not give a number.
        max_k: Maximum number of passages that a question can ask for.
        max_characters: Maximum length of a question and of an answer to mark.
        max_batch: Maximum number of questions that are searched together.
        queue_size: Maximum number of questions that wait. Another question gets status 503.
        allowed_hosts: Names by which clients may reach the server beside those of loopback, from ``read_host_names``.
    """
    health = Health(searches)
    batcher = Batcher(partial(search_all, searches), max_batch=max_batch, queue_size=queue_size)
    collections = ", ".join(dict.fromkeys(_describe_collection(search) for search in searches))
    page = SearchPage(k=str(k), max_k=max_k, max_characters=max_characters, collections=collections)

    @asynccontextmanager
    async def open_batcher(app: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    app = FastAPI(
        title="Passage search",
        version=__version__,
        lifespan=open_batcher,
        docs_url=None,  # FastAPI's own pages load scripts from another server
        redoc_url=None,
        redirect_slashes=False,  # A redirect would name the Host that the client gave.
        telemetry=_NO_TELEMETRY,
    )
    _add_search(app, batcher, page, health)
    _add_descriptions(app, batcher, [search.name for search in searches], health)
    _add_error_handlers(app, page, allowed_hosts)
    return app


def _add_search(
    app: FastAPI, batcher: Batcher[SearchRequest, list[SearchResult]], page: SearchPage, health: Health
) -> None:
    """Add the search page and the search for programs."""
    query_param: Any = Query("", description=f"The question, at most {page.max_characters} characters.")
    k_param: Any = Query(
        int(page.k), ge=1, le=page.max_k, description=f"Number of passages from each search, 1 to {page.max_k}."
    )
    answer_param: Any = Query("", description="Text to find in the passages: whole words, in upper or lower case.")

    async def search_passages(request: Request, question: str, k: int, answer: str) -> SearchResponse:
        started = time.perf_counter()
        if (fault := _find_fault(question, answer, page.max_characters)) is not None:
            raise HTTPException(422, fault)
        try:
            results = await _await_unless_gone(request, batcher.ask(SearchRequest(question, k, answer)))
        except QueueFull as full:
            raise HTTPException(503, str(full), {"Retry-After": str(RETRY_AFTER)}) from None
        except asyncio.CancelledError:
            raise HTTPException(503, "The server is shutting down.") from None
        except HTTPException:
            raise
        except Exception as error:
            if (reason := health.note_failure(error)) is None:
                raise
            raise HTTPException(503, reason) from None
        health.note_answer()
        return SearchResponse(question=question, k=k, seconds=time.perf_counter() - started, searches=results)

    @app.get("/", include_in_schema=False)
    async def show(
        request: Request, q: str | None = None, k: int = k_param, answer: str = answer_param
    ) -> HTMLResponse:
        if q is None:
            return _respond_page(request, page)
        found = await search_passages(request, q, k, answer)
        return _respond_page(request, page, results=found.searches, seconds=found.seconds)

    @app.get("/search", responses={422: {"model": ErrorResponse}, 503: {"model": ErrorResponse}})
    async def search(
        request: Request, q: str = query_param, k: int = k_param, answer: str = answer_param
    ) -> SearchResponse:
        """Return the best passages of each search for a question."""
        return await search_passages(request, q, k, answer)


def _add_descriptions(app: FastAPI, batcher: Batcher[Any, Any], names: list[str], state: Health) -> None:
    """Add the state of the server and the page that describes the interface."""

    @app.get("/health", responses={503: {"model": HealthResponse}})
    async def health(response: Response) -> HealthResponse:
        """Return the state of the server and the number of questions that wait."""
        reason = await state.find_failure()
        response.status_code = 200 if reason is None else 503
        status = "ok" if reason is None else "failed"
        return HealthResponse(status=status, reason=reason or "", waiting=len(batcher), searches=names)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_docs_page(app.openapi()))


def _add_error_handlers(app: FastAPI, page: SearchPage, allowed_hosts: frozenset[str]) -> None:
    """Add the check of the host and the handlers that turn an error into one line."""

    def respond(request: Request, status: int, message: str, headers: Any = None) -> Response:
        if request.scope["path"] != "/":
            return JSONResponse({"error": message}, status, headers)
        response = _respond_page(request, page, status=status, error=message)
        response.headers.update(headers or {})
        return response

    def refuse_host(request: Request, message: str) -> Response:
        return respond(request, 400, message)

    app.add_middleware(HostCheck, allowed=allowed_hosts, refuse=refuse_host)

    @app.exception_handler(StarletteHTTPException)
    async def handle_http_error(request: Request, error: StarletteHTTPException) -> Response:
        return respond(request, error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        value = str(error.errors()[0]["input"])[:40]  # k is the only parameter that is not text
        return respond(request, 422, f"k: {value!r} is not an integer from 1 to {page.max_k}.")

    @app.exception_handler(Exception)
    async def handle_failed_search(request: Request, error: Exception) -> Response:
        return respond(request, 500, "The search failed. The log of the server has the reason.")


def _respond_page(request: Request, page: SearchPage, *, status: int = 200, **content: Any) -> HTMLResponse:
    """Return the search page with the values of the request in its form."""
    values = request.query_params
    filled = replace(page, question=values.get("q", ""), answer=values.get("answer", ""), k=values.get("k", page.k))
    return HTMLResponse(render_search_page(filled, **content), status)


def _describe_collection(search: Search) -> str:
    return f"{len(search.collection):,} passages of {Path(search.collection.path).name}"


def _find_fault(question: str, answer: str, max_characters: int) -> str | None:
    """Return what is wrong with the texts of a request, or None."""
    for name, value in (("question", question), ("answer", answer)):
        if len(value) > max_characters:
            return f"{name}: {len(value)} characters. Use at most {max_characters}."
        if "\ufffd" in value:  # stands for bytes that could not be decoded
            return f"{name}: not UTF-8. Encode it as UTF-8."
        control = next((sign for sign in value if unicodedata.category(sign) == "Cc" and not sign.isspace()), None)
        if control is not None:
            return f"{name}: control character U+{ord(control):04X}. Remove it."
    has_text = any(sign.isprintable() and not sign.isspace() for sign in question)
    return None if has_text else "question: blank. Type a question."


async def _await_unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of the work. Cancel the work if the client closes the connection first."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "The client closed the connection.")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
