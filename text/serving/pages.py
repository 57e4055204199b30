"""Render the search page and the page that describes the JSON interface.

The pages need no script and load nothing. The templates escape every text, so that passages and questions are shown as
text whatever they contain.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from text.serving.searches import SearchResult
from text.templates import read_style_sheet, render_template


@dataclass(frozen=True, kw_only=True)
class SearchPage:
    """The search page without results: texts in the fields, as the reader typed them, and limits of the fields."""

    question: str = ""
    answer: str = ""
    k: str
    max_k: int
    max_characters: int
    collections: str
    """Description of the collections that are searched."""


def render_search_page(
    page: SearchPage, *, results: Sequence[SearchResult] | None = None, seconds: float = 0, error: str | None = None
) -> str:
    """Return the search page: the form, and below it the results or an error.

    Args:
        page: Content of the form and the footer.
        results: One result for each search. None shows no results.
        seconds: Time from the question to its results.
        error: Message to show in place of results.
    """
    has_passages = any(result.passages for result in results or ())
    return render_template(
        "search.html",
        title=f"{page.question} \u2013 Passage search" if page.question else "Passage search",
        page=page,
        has_focus=not has_passages,  # a reader of results needs the keyboard to scroll
        results=results,
        seconds=seconds,
        error=error,
        split_marked=split_marked,
    )


def render_docs_page(openapi: dict[str, Any]) -> str:
    """Return a page that describes the JSON interface.

    Args:
        openapi: OpenAPI description of the interface.
    """
    operations = [
        {"parameters": [], **operation, "path": path, "method": method.upper()}
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return render_template("search_docs.html", title="JSON interface \u2013 Passage search", operations=operations)


def content_security_policy() -> str:
    """Return the Content-Security-Policy of all pages. It allows their own style and icon, and sending the form."""
    digest = hashlib.sha256(read_style_sheet().encode()).digest()
    return (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(digest).decode()}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def split_marked(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Split a text at the spans to mark.

    Args:
        text: Text of a passage.
        spans: Start and end of each part to mark, in order and without overlap.

    Returns:
        Pieces that are not empty, in order, and whether each of them is marked. Together they are the text.
    """
    pieces, end = [], 0
    for start, next_end in spans:
        pieces += [(text[end:start], False), (text[start:next_end], True)]
        end = next_end
    pieces.append((text[end:], False))
    return [(piece, is_marked) for piece, is_marked in pieces if piece]
