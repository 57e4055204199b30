"""Jinja2 templates of all pages, with autoescaping and one style sheet.

Only this package imports jinja2. ``text/runs`` (model card), ``text/serving`` and ``text/reports`` render their pages
with it. The name of a template ends in ``.html`` or ``.md``. In a ``.md`` template, the filter ``cell`` escapes a value
for a table cell.
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
"""Characters that Markdown interprets as HTML, emphasis, code, a link or a column. Underscores in words are plain."""


def render_template(name: str, **values: Any) -> str:
    """Render a template and return the page.

    Args:
        name: File name of the template in this folder.
        values: Variables of the template. HTML pages escape them, except results of ``mark_safe``.

    Raises:
        jinja2.UndefinedError: A variable of the template is missing.
    """
    return _environment().get_template(name).render(**values)


def mark_safe(html: str) -> str:
    """Mark HTML so that templates insert it without escaping. All text in it must already be escaped."""
    return Markup(html)


@cache
def read_style_sheet() -> str:
    """Return the style sheet of all HTML pages, for their ``<style>`` element."""
    return mark_safe((_FOLDER / "style.css").read_text(encoding="utf-8"))


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
    """Escape control characters in a text, because a terminal would also interpret them inside HTML.

    Marks of the reading direction stay, because a browser limits their effect to the element.
    """
    return _TERMINAL.sub(lambda found: ascii(found[0])[1:-1], value) if type(value) is str else value


def _escape_cell(value: Any) -> str:
    """Return a value as one cell of a Markdown table: one line of plain text without markup or links."""
    line = escape_controls(" ".join(str(value).splitlines()))
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), line)
