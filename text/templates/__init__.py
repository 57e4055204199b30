"""Jinja2 templates of the pages that this library writes, with autoescaping and one style sheet.

This package is the only one that imports jinja2. ``text/runs`` (model card), ``text/serving`` and ``text/reports``
render their pages through it. A template ends in ``.html`` or ``.md``; in a ``.md`` template a value is put into a
table cell with the filter ``cell``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from text.errors import escape_controls, explain_missing

with explain_missing("report"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
_TERMINAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MARKUP = re.compile(r"[\\`*\[\]<>&|~]|@(?=[\w-]+\.)|\b_|_\b|:(?=//)|(?<=www)\.", re.ASCII | re.IGNORECASE)
"""What Markdown reads as HTML, emphasis, code, a link or a new column. An underscore inside a word is none of these."""


def render_template(name: str, **values: Any) -> str:
    """Return a page.

    Args:
        name: File name of the template in this folder.
        values: Variables of the template. HTML pages escape them, except the results of ``safe_markup``.

    Raises:
        jinja2.UndefinedError: The template uses a variable that is not given.
    """
    return _environment().get_template(name).render(**values)


def safe_markup(html: str) -> str:
    """Return HTML that a page takes as it is, without escaping. Every text in it must be escaped already."""
    return Markup(html)


@cache
def read_style_sheet() -> str:
    """Return the style sheet that all HTML pages share, as it stands in their ``<style>``."""
    return safe_markup((_FOLDER / "style.css").read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_escape_terminal_codes,
    )
    environment.filters["cell"] = _escape_cell
    environment.globals["style_sheet"] = read_style_sheet
    return environment


def _escape_terminal_codes(value: Any) -> Any:
    """Return a text from data with escapes for the characters that a terminal obeys also inside HTML.

    Marks of the reading direction stay: a browser keeps their effect inside the element.
    """
    return _TERMINAL.sub(lambda found: ascii(found[0])[1:-1], value) if type(value) is str else value


def _escape_cell(value: Any) -> str:
    """Return a value as the content of one cell of a Markdown table: one line of plain text, no markup and no link."""
    line = escape_controls(" ".join(str(value).splitlines()))
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), line)
