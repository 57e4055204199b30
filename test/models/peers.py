"""sentence-transformers as an oracle. A test module that imports this one is skipped without the package."""

from __future__ import annotations

import importlib

import pytest

sentence_transformers = pytest.importorskip("sentence_transformers")
is_old = sentence_transformers.__version__ < "6"
modules = importlib.import_module(f"sentence_transformers.{'models' if is_old else 'sentence_transformer.modules'}")
"""Classes of the modules of a model."""
PEER_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
"""Marks for a module whose tests use the package."""
