"""HTML of the search page and of the page that documents the JSON interface.

The pages use no scripts and load no other files. The templates escape all texts, so HTML in a passage or a question is
shown and never interpreted.
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
    """Content of the search form, limits of its fields, and text of the footer."""

    question: str = ""
    answer: str = ""
    k: str
    max_k: int
    max_characters: int
    collections: str
    """Description of the searched collections."""


def render_search_page(
    page: SearchPage, *, results: Sequence[SearchResult] | None = None, seconds: float = 0, error: str | None = None
) -> str:
    """Return the search page: the form, followed by the results or an error.

    Args:
        page: Content of the form and the footer.
        results: Result of each search. None shows the form only.
        seconds: Time from the request to its results.
        error: Message to show instead of results.
    """
    has_passages = any(result.passages for result in results or ())
    return render_template(
        "search.html",
        title=f"{page.question} \u2013 Passage search" if page.question else "Passage search",
        page=page,
        has_focus=not has_passages,  # With results, the keyboard should scroll the page.
        results=results,
        seconds=seconds,
        error=error,
        split_marked=split_marked,
    )


def render_docs_page(openapi: dict[str, Any]) -> str:
    """Return a page that documents the JSON interface.

    Args:
        openapi: OpenAPI schema of the application.
    """
    operations = [
        {"parameters": [], **operation, "path": path, "method": method.upper()}
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return render_template("search_docs.html", title="JSON interface \u2013 Passage search", operations=operations)


def build_content_security_policy() -> str:
    """Return the Content-Security-Policy of all pages. It allows the style sheet, the icon and the search form."""
    digest = hashlib.sha256(read_style_sheet().encode()).digest()
    return (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(digest).decode()}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def split_marked(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Split a text into marked and unmarked pieces.

    Args:
        text: Text of a passage.
        spans: Start and end of each span to mark, in characters. Sorted and without overlap.

    Returns:
        Pairs of a non-empty piece and whether it is marked. The joined pieces are the text.
    """
    pieces, end = [], 0
    for start, next_end in spans:
        pieces += [(text[end:start], False), (text[start:next_end], True)]
        end = next_end
    pieces.append((text[end:], False))
    return [(piece, is_marked) for piece, is_marked in pieces if piece]
