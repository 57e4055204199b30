"""The web application: a search page for people and JSON for programs.

The application reports each error in one line, on the page or as ``{"error": "..."}``. ``text/serving/searches.py``
runs the searches, and ``text/serving/server.py`` runs the application on a socket.
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
"""Seconds that a client should wait after the queue was full (header Retry-After)."""
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI settings that turn telemetry off, so that questions stay on this machine."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class SearchResponse:
    """Response to a question."""

    question: str
    k: int
    seconds: float
    """Time from the request to its results, including the wait in the queue."""
    searches: list[SearchResult]


@dataclass(frozen=True, kw_only=True)
class HealthResponse:
    """State of the server."""

    status: Literal["ok", "failed"]
    """"failed" (HTTP status 503) if a search file has changed or the last question failed."""
    reason: str = ""
    """Reason for the status "failed"."""
    waiting: int
    """Number of questions in the queue."""
    searches: list[str]
    """Names of all searches."""


@dataclass(frozen=True, kw_only=True)
class ErrorResponse:
    """Response to a request that failed."""

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
    """Build a web application for one or more searches. Waiting questions are searched in batches.

    Args:
        searches: Searches to run for each question. Their results are shown side by side.
        k: Default number of passages per search.
        max_k: Maximum number of passages per search that a client can request.
        max_characters: Maximum length of a question, and of an answer to mark.
        max_batch: Maximum number of questions in a batch.
        queue_size: Maximum number of waiting questions. Further questions get status 503.
        allowed_hosts: Host names that clients may use in addition to loopback, from ``read_host_names``.

    Returns:
        The application. ``make_server`` runs it.
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
        docs_url=None,  # FastAPI's documentation pages load scripts from a CDN.
        redoc_url=None,
        redirect_slashes=False,  # A redirect would repeat the Host header that the client sent.
        telemetry=_NO_TELEMETRY,
    )
    _add_search(app, batcher, page, health)
    _add_health_and_docs(app, batcher, [search.name for search in searches], health)
    _add_error_handlers(app, page, allowed_hosts)
    return app


def _add_search(
    app: FastAPI, batcher: Batcher[SearchRequest, list[SearchResult]], page: SearchPage, health: Health
) -> None:
    """Add the search page and the JSON search."""
    query_param: Any = Query("", description=f"The question, at most {page.max_characters} characters.")
    k_param: Any = Query(
        int(page.k), ge=1, le=page.max_k, description=f"Number of passages from each search, 1 to {page.max_k}."
    )
    answer_param: Any = Query("", description="Answer to mark in the passages. Matches whole words and ignores case.")

    async def search_passages(request: Request, question: str, k: int, answer: str) -> SearchResponse:
        started = time.perf_counter()
        if (fault := _find_fault(question, answer, page.max_characters)) is not None:
            raise HTTPException(422, fault)
        try:
            results = await _cancel_on_disconnect(request, batcher.ask(SearchRequest(question, k, answer)))
        except QueueFull as full:
            raise HTTPException(503, str(full), {"Retry-After": str(RETRY_AFTER)}) from None
        except asyncio.CancelledError:
            raise HTTPException(503, "The server is shutting down.") from None
        except HTTPException:
            raise
        except Exception as error:
            if (reason := health.record_failure(error)) is None:
                raise
            raise HTTPException(503, reason) from None
        health.record_success()
        return SearchResponse(question=question, k=k, seconds=time.perf_counter() - started, searches=results)

    @app.get("/", include_in_schema=False)
    async def show_page(
        request: Request, q: str | None = None, k: int = k_param, answer: str = answer_param
    ) -> HTMLResponse:
        if q is None:
            return _make_page_response(request, page)
        found = await search_passages(request, q, k, answer)
        return _make_page_response(request, page, results=found.searches, seconds=found.seconds)

    @app.get("/search", responses={422: {"model": ErrorResponse}, 503: {"model": ErrorResponse}})
    async def search(
        request: Request, q: str = query_param, k: int = k_param, answer: str = answer_param
    ) -> SearchResponse:
        """Return the best passages of each search for a question."""
        return await search_passages(request, q, k, answer)


def _add_health_and_docs(app: FastAPI, batcher: Batcher[Any, Any], names: list[str], state: Health) -> None:
    """Add the health check and the page that documents the JSON interface."""

    @app.get("/health", responses={503: {"model": HealthResponse}})
    async def health(response: Response) -> HealthResponse:
        """Return the state of the server and the number of waiting questions."""
        reason = await state.find_failure()
        response.status_code = 200 if reason is None else 503
        status = "ok" if reason is None else "failed"
        return HealthResponse(status=status, reason=reason or "", waiting=len(batcher), searches=names)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(render_docs_page(app.openapi()))


def _add_error_handlers(app: FastAPI, page: SearchPage, allowed_hosts: frozenset[str]) -> None:
    """Add the check of the Host header, and handlers that report each error in one line."""

    def respond(request: Request, status: int, message: str, headers: Any = None) -> Response:
        if request.scope["path"] != "/":
            return JSONResponse({"error": message}, status, headers)
        response = _make_page_response(request, page, status=status, error=message)
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
        value = str(error.errors()[0]["input"])[:40]  # k is the only parameter that is not a string.
        return respond(request, 422, f"k: {value!r} is not an integer from 1 to {page.max_k}.")

    @app.exception_handler(Exception)
    async def handle_failed_search(request: Request, error: Exception) -> Response:
        return respond(request, 500, "The search failed. The server log has the reason.")


def _make_page_response(request: Request, page: SearchPage, *, status: int = 200, **content: Any) -> HTMLResponse:
    """Return the search page. Its form keeps the values of the request."""
    values = request.query_params
    filled = replace(page, question=values.get("q", ""), answer=values.get("answer", ""), k=values.get("k", page.k))
    return HTMLResponse(render_search_page(filled, **content), status)


def _describe_collection(search: Search) -> str:
    return f"{len(search.collection):,} passages of {Path(search.collection.path).name}"


def _find_fault(question: str, answer: str, max_characters: int) -> str | None:
    """Return an error message if a text of the request is invalid, or None."""
    for name, value in (("question", question), ("answer", answer)):
        if len(value) > max_characters:
            return f"{name}: {len(value)} characters. Use at most {max_characters}."
        if "\ufffd" in value:  # the replacement character for bytes that are not UTF-8
            return f"{name}: not valid UTF-8. Encode it as UTF-8."
        control = next((sign for sign in value if unicodedata.category(sign) == "Cc" and not sign.isspace()), None)
        if control is not None:
            return f"{name}: control character U+{ord(control):04X}. Remove it."
    has_text = any(sign.isprintable() and not sign.isspace() for sign in question)
    return None if has_text else "question: blank. Type a question."


async def _cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of the work. Cancel the work if the client disconnects first."""
    work_task, disconnect_task = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait([work_task, disconnect_task], return_when=asyncio.FIRST_COMPLETED)
        if not work_task.done():
            raise HTTPException(499, "The client closed the connection.")
        return work_task.result()
    finally:
        work_task.cancel()
        disconnect_task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
