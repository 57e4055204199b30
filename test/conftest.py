"""What all tests share."""

from __future__ import annotations

import pytest

from text.models import files


@pytest.fixture(autouse=True)
def any_torch_reads_what_a_test_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ``torch.save`` are refused on an old PyTorch because others may have made them; here no other has."""
    monkeypatch.setattr(files, "SAFE_TORCH", "2.3")
