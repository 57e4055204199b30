"""Rows, collections, models and error checks for the tests of several folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from text.bundle import BiEncoderBundle
from text.commands.flag_help import format_help
from text.datasets import PassageCollection
from text.models import BiEncoder, roberta_tiny
from text.records import Example
from text.transforms import train_tokenizer

law = hypothesis_settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same examples in every run
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example rewrites the files in the folder
)


# Command lines


def read_examples(flags_class: type) -> list[str]:
    """Return the command lines at the end of a command's help. A command may span several lines there."""
    examples = format_help(flags_class, None).partition("\nexamples:\n")[2].replace("\\\n", " ")
    return [line.strip() for line in examples.splitlines() if line.strip()]


# Rows in the DPR format


def context(name: str) -> dict[str, str]:
    return {"title": f"title of {name}", "text": f"text of {name}", "passage_id": name}


def record(question: Any = "q", *, positives: int = 1, hard: int = 2, other: int = 2, **fields: Any) -> dict[str, Any]:
    """Return a row. Its passage ids start with the question: ``q+0``, ``q-0``, ``q-1``, ``q~0``, ``q~1``."""
    return {
        "question": question,
        "answers": ["an answer"],
        "positive_ctxs": [context(f"{question}+{i}") for i in range(positives)],
        "hard_negative_ctxs": [context(f"{question}-{i}") for i in range(hard)],
        "negative_ctxs": [context(f"{question}~{i}") for i in range(other)],
        **fields,
    }


def records(n: int, **options: Any) -> list[dict[str, Any]]:
    """Return rows with the questions q0, q1, ..."""
    return [record(f"q{i}", **options) for i in range(n)]


def drop_fields(row: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in fields}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def list_questions(batches: Iterable[Sequence[Example]]) -> list[list[str]]:
    return [[example.question for example in batch] for batch in batches]


class ByteTokenizer:
    """Tokenizer whose ids are the UTF-8 bytes of a text. It has the attributes that a token cache needs."""

    fingerprint = "bytes" * 13
    vocab_size = 256

    def __init__(self) -> None:
        self.texts: list[str] = []
        """All texts that were tokenized in this process."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.texts += texts
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]


# Texts, collections and models


WORDS = "oak elm ash yew fir bay fig pear plum beech maple has green brown tall leaves bark and the of".split()


def texts(num: int) -> list[str]:
    """Return texts of 1 to 9 words."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=1 + number % 9)) for number in range(num)]


def random_ids(
    *lengths: int, vocab_size: int = 100, seed: int = 0, width: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, L) ids and mask of random texts from ``<s>`` to ``</s>``, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.full((len(lengths), width or max(lengths, default=1)), 1)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = torch.randint(5, vocab_size, (length,), generator=generator)
        input_ids[row, 0], input_ids[row, length - 1] = 0, 2
    return input_ids, input_ids != 1


def write_collection(path: Path, ids: Sequence[str], contents: Sequence[str]) -> PassageCollection:
    rows = ({"_id": name, "title": f"title {name}", "text": text} for name, text in zip(ids, contents, strict=True))
    return PassageCollection(write_jsonl(path, rows))


def save_model(folder: Path, seed: int, **settings: Any) -> Path:
    """Save two small encoders with random weights, and a tokenizer that is trained on ``texts``."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts(50), 300)
    size = tokenizer.get_vocab_size()
    sides = [roberta_tiny(vocab_size=size, pooling="mean", max_position_embeddings=34) for _ in range(2)]
    settings = {"question_max_length": 16, "passage_max_length": 32} | settings
    BiEncoderBundle(model=BiEncoder(*sides), tokenizer=tokenizer, **settings).save(folder)
    return folder


# External files


SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared_file(name: str) -> Path:
    """Return the path of a shared data file, or skip the test if the file does not exist."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: shared data is not part of the repository")
    return path


# Errors


class Place(NamedTuple):
    """Place of a fault in a file, as an error message gives it."""

    line: int
    byte: int
    field: str = ""


def assert_one_line(error: BaseException, path: str | os.PathLike[str], *parts: str) -> None:
    """Check that an error is one line that begins with a path and names the given keys, fields or values."""
    message = str(error)
    assert message.startswith(f"{os.fspath(path)}: ") and "\n" not in message, message
    assert all(part in message for part in parts), message


def parse_place(error: object, path: str | os.PathLike[str]) -> Place:
    """Parse the place in an error about a file, ``PATH:LINE (byte BYTE) FIELD: ...``. The field may be missing."""
    found = re.fullmatch(rf"{re.escape(os.fspath(path))}:(\d+) \(byte (\d+)\)(?: (\S+?))?: .+", str(error))
    assert found, f"not a single line with a place: {error}"
    return Place(int(found[1]), int(found[2]), found[3] or "")


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file in a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
