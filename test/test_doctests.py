"""The examples in docstrings print the output that they show."""

from __future__ import annotations

import doctest
import importlib

import pytest

from test.pages import ROOT
from text.errors import MissingPackageError

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "text").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")  # A warning about code of Lightning.
@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except MissingPackageError as error:  # The lane of torchtext has no mteb.
        pytest.skip(str(error))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
