"""How serve.py looks in a browser: HTML of what was asked and found, and of the interface for programs.

Every text that comes from elsewhere is escaped. The pages need no script, and nothing from any other place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from examples.dpr.searching import FoundPassage, SearchResult

_STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
_ICON = (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='none' stroke='%231f8077' stroke-width='2'%3E"
    "%3Ccircle cx='7' cy='7' r='5'/%3E%3Cpath d='m11 11 4 4'/%3E%3C/svg%3E"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""What a browser may do with a page: show it, with its own style and icon, and send its form."""


class Form(NamedTuple):
    """What stands in the fields, whatever was typed there."""

    question: str
    k: str
    answer: str
    max_k: int
    max_characters: int


def search_page(form: Form, about: str, content: str = "") -> str:
    """The form, and below it what was found, or what was wrong."""
    title = f"{form.question} \u2013 Passage search" if form.question else "Passage search"
    foot = f'{escape(about)} <a href="docs">Interface for programs</a>'
    return _page(title, f"<search>{_form(form, autofocus='<ol' not in content)}</search>", content, foot)


def found_part(results: Sequence[SearchResult], seconds: float) -> str:
    """One column a search; below each other where the screen is narrow, with links to each."""
    links = " ".join(f'<a href="#search-{number}">{escape(each.name)}</a>' for number, each in enumerate(results))
    columns = "".join(_column(number, result) for number, result in enumerate(results))
    return (
        f'<p class="note">Answered in {_milliseconds(seconds)}</p>'
        f'{f"<nav>{links}</nav>" if len(results) > 1 else ""}<div class="columns">{columns}</div>'
    )


def error_part(message: str) -> str:
    return f'<p class="error" role="alert">{escape(message)}</p>'


def docs_page(openapi: dict[str, Any]) -> str:
    """What programs can ask for, out of its OpenAPI description."""
    operations = (
        (path, method, operation) for path, methods in openapi["paths"].items() for method, operation in methods.items()
    )
    content = "".join(_operation(*each) for each in operations)
    foot = '<a href="openapi.json">The same as OpenAPI</a>'
    return _page("Interface for programs \u2013 Passage search", "", content, foot)


def _page(title: str, head: str, content: str, foot: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:image/svg+xml,{_ICON}">
<style>{_STYLE}</style>
<header><h1><a href="./">Passage search</a></h1>{head}</header>
<main>{content}</main>
<footer>{foot}</footer>
</html>
"""


def _form(form: Form, *, autofocus: bool) -> str:
    limit = f'maxlength="{form.max_characters}" dir="auto" autocomplete="off"'
    focus = "autofocus" if autofocus else ""
    return (
        '<form action="./" method="get">'
        f'<label>Question<input name="q" type="search" value="{escape(form.question)}" required {limit} {focus}>'
        "</label>"
        f'<label>Answer to mark<input name="answer" value="{escape(form.answer)}" {limit}></label>'
        f'<label>Passages<input name="k" type="number" min="1" max="{form.max_k}" value="{escape(form.k)}"></label>'
        "<button>Search</button></form>"
    )


def _column(number: int, result: SearchResult) -> str:
    items = "".join(_item(rank, passage) for rank, passage in enumerate(result.passages, 1))
    content = f"<ol>{items}</ol>" if items else '<p class="note">Nothing found.</p>'
    return (
        f'<section id="search-{number}"><header><h2>{escape(result.name)}</h2>'
        f'<span class="figure">{_milliseconds(result.seconds)}</span></header>{content}</section>'
    )


def _item(rank: int, passage: FoundPassage) -> str:
    title = escape(passage.title) or '<span class="id">no title</span>'
    return (
        f'<li><div class="head"><span class="figure">{rank}</span><h3 dir="auto">{title}</h3>'
        f'<span class="figure">{passage.score:.4f}</span></div>'
        f'<p class="text" dir="auto">{_marked(passage.text, passage.answer_spans)}</p>'
        f'<p class="id"><bdi>{escape(passage.passage_id)}</bdi></p></li>'
    )


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    pieces, end = [], 0
    for start, next_end in spans:
        pieces.append(f"{escape(text[end:start])}<mark>{escape(text[start:next_end])}</mark>")
        end = next_end
    return "".join([*pieces, escape(text[end:])])


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['description'])}"
        for parameter in operation.get("parameters", [])
    )
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation['description'])}</p>{f'<table>{rows}</table>' if rows else ''}</section>"
    )
