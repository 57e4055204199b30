"""Jinja2 templates of the pages that this library writes, with autoescaping and one style sheet.

This package is the only one that imports jinja2. ``text/runs`` (model card), ``text/serving`` and ``text/reports``
render their pages through it. A template ends in ``.html`` or ``.md``; in a ``.md`` template a value is put into a
table cell with the filter ``cell``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent
STYLE_SHEET = _FOLDER / "style.css"
"""The style sheet that all HTML pages share."""


def render_template(name: str, **values: Any) -> str:
    """Return a page.

    Args:
        name: File name of the template in this folder.
        values: Variables of the template. HTML pages escape them, unless they are ``markupsafe.Markup``.

    Raises:
        jinja2.UndefinedError: The template uses a variable that is not given.
    """
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _escape_cell
    environment.globals["style_sheet"] = lambda: STYLE_SHEET.read_text(encoding="utf-8")
    return environment


def _escape_cell(value: Any) -> str:
    """Return a value as the content of a cell of a Markdown table."""
    return str(value).replace("|", "&#124;").replace("\n", " ")
