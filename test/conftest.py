"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from test.pages import warm_python
from text.models import files


@pytest.fixture(autouse=True)
def any_torch_reads_what_a_test_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ``torch.save`` are refused on an old PyTorch because others may have made them; here no other has."""
    monkeypatch.setattr(files, "SAFE_TORCH", "2.3")


@pytest.fixture(scope="session")
def python() -> Iterator[Path]:
    """A command that starts at once, for pages of documentation."""
    with warm_python() as path:
        yield path
