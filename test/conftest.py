"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests fork, and a process with threads of gRPC (Milvus) may hang in its handlers of a fork.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: files side by side, a core for each

from test.pages import warm_python
from text.models import files


def pytest_configure(config: pytest.Config) -> None:
    """Tests train on short texts with lower limits, for less work. That most of the texts are cut is no fault there."""
    config.addinivalue_line("filterwarnings", "ignore:.*lose their end:text.errors.SettingsWarning")


@pytest.fixture(autouse=True)
def any_torch_reads_what_a_test_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ``torch.save`` are refused on an old PyTorch because others may have made them; here no other has."""
    monkeypatch.setattr(files, "SAFE_TORCH", "2.3")


@pytest.fixture(scope="session")
def python() -> Iterator[Path]:
    """A command that starts at once, for pages of documentation."""
    with warm_python() as path:
        yield path
