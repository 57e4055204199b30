"""Settings and fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests fork, and a process with gRPC threads (Milvus) may hang in its fork handlers.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # set before torch is imported: one core per worker

from test.pages import warm_python
from text.models import files


def pytest_configure(config: pytest.Config) -> None:
    """Ignore warnings about truncated texts. Tests train with low length limits, so most texts are truncated."""
    config.addinivalue_line("filterwarnings", "ignore:.*tokens and are truncated:text.errors.SettingsWarning")


@pytest.fixture(autouse=True)
def trust_torch_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load files of ``torch.save`` on an old PyTorch too. The library refuses them there, but tests write their own."""
    monkeypatch.setattr(files, "SAFE_TORCH", "2.3")


@pytest.fixture(scope="session")
def python() -> Iterator[Path]:
    """Yield the path of a ``python`` that starts at once, for documentation pages."""
    with warm_python() as path:
        yield path
