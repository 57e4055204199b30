"""Settings of Sphinx: ``sphinx-build -W docs site``. The built pages load nothing from the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import text  # noqa: E402

project = "dpr-text"
release = text.__version__
copyright = "the authors of dpr-text"  # noqa: A001  Sphinx's name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["package.md"]  # the page of the wheel
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# An API page lists the names that a package exports, with their docstrings.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # Lightning's, of methods that it calls
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100

smartquotes = False  # would turn the two hyphens of a flag into a dash

html_theme = "furo"
html_title = "dpr-text"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1a5c50",
        "color-brand-content": "#1a5c50",
        "color-api-name": "#1a5c50",
        "color-api-pre-name": "#1a5c50",
    },
    "dark_css_variables": {
        "color-brand-primary": "#74c7b4",
        "color-brand-content": "#74c7b4",
        "color-api-name": "#74c7b4",
        "color-api-pre-name": "#74c7b4",
    },
}
# The type ``bytes`` of an argument also matches attributes of this name.
suppress_warnings = ["ref.python"]
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Register the hooks of this configuration with Sphinx."""
    app.connect("autodoc-process-docstring", _keep_attribute, priority=400)
    app.connect("autodoc-process-docstring", _put_attribute_back, priority=600)
    app.connect("autodoc-process-signature", _leave_out_flags)


_attributes: dict[str, list[str]] = {}


def _keep_attribute(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Store the docstring of an attribute before napoleon, which would take the text before a colon for a type."""
    if what == "attribute":
        # Python's default docstring of a NamedTuple field is not useful.
        _attributes[name] = [line for line in lines if not line.startswith("Alias for field number")]


def _put_attribute_back(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "attribute":
        lines[:] = _attributes.pop(name)


def _leave_out_flags(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, None] | None:
    """Leave out the signature of a class of flags: the page of commands lists its flags one by one."""
    return ("", None) if app.env.docname == "api/commands" and what == "class" else None
