"""Fixtures: a tokenizer trained on a few texts."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from text.transforms import train_tokenizer

PHRASES = [
    "Who wrote the first book about dense retrieval?",
    "The first book about retrieval was written before the first computer.",
    "Die Füße der Gänse: «größer» – 北京, مرحبا, 🦆🦆!",
] * 3


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(PHRASES, 400)
