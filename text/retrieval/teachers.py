"""Teachers: models that score pairs of a question and a passage, for distillation, mining and reranking.

A teacher is a reranker (cross-encoder), a bi-encoder or BM25. Its record identifies it wherever its scores are kept.

Dimensions: N pairs; Q distinct questions; P distinct passages; D width of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from text.artifacts import hash_json
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.evaluation.score_source import TeacherRecord
from text.models.cross_encoder_files import is_cross_encoder
from text.records import Passage
from text.reranker import Reranker
from text.retrieval.devices import describe_precision, get_default_device, get_default_precision
from text.retrieval.embedder import Embedder

_PAIRS = 1 << 12
"""Pairs of embeddings that are multiplied together."""


class Teacher(Protocol):
    """A model that scores pairs of a question and a passage."""

    @property
    def record(self) -> TeacherRecord:
        """Identity of the teacher."""
        ...

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs. A larger score is better."""
        ...


class RerankerTeacher:
    """A cross-encoder as a teacher.

    Args:
        reranker: The model.
        model: Folder of the model, as the user gave it.
        precision: Precision of the model.
    """

    def __init__(self, reranker: Reranker, model: str, precision: str) -> None:
        self._reranker = reranker
        self.record = TeacherRecord("reranker", model, reranker.identity, {"precision": precision})

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs."""
        return check_finite(self._reranker.score(questions, passages), self.record)


class BiEncoderTeacher:
    """A bi-encoder as a teacher, also called a guide. The score of a pair is the similarity of its embeddings.

    Args:
        questions: Embedder of questions.
        passages: Embedder of passages, with the same similarity.
        model: Folder of the model, as the user gave it.
    """

    def __init__(self, questions: Embedder, passages: Embedder, model: str) -> None:
        self._questions, self._passages = questions, passages
        names = ("max_length", "prompt", "similarity", "titles", "precision")
        settings = {
            side: {name: embedder.settings.get(name) for name in names}
            for side, embedder in (("question", questions), ("passage", passages))
        }
        self.record = TeacherRecord("bi-encoder", model, hash_json(questions.model_hashes), settings)

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs. Each distinct text is embedded once in a call."""
        question_rows, passage_rows = _number_distinct(questions), _number_distinct([each[1:3] for each in passages])
        distinct = [Passage("", title, text) for title, text in passage_rows]
        asked, read = (
            embedder.embed_list(texts)[0]
            for embedder, texts in ((self._questions, list(question_rows)), (self._passages, distinct))
        )
        left = torch.tensor([question_rows[each] for each in questions], dtype=torch.int64)
        right = torch.tensor([passage_rows[each[1:3]] for each in passages], dtype=torch.int64)
        scores = [
            (asked[rows].double() * read[others].double()).sum(dim=1).float()
            for rows, others in zip(left.split(_PAIRS), right.split(_PAIRS), strict=True)
        ]
        return check_finite(torch.cat(scores).numpy(), self.record)


class BM25Teacher:
    """BM25 over a collection as a teacher. It scores only passages of the collection, which it finds by their ids.

    Args:
        collection: The collection, from which the word statistics come.

    Raises:
        MissingPackageError: bm25s is not installed.
    """

    def __init__(self, collection: PassageCollection, **parameters: float) -> None:
        from text.retrieval.bm25 import BM25, K1, B

        self._path, self._index = collection.path, BM25(collection, **parameters)
        settings = {"k1": K1, "b": B} | parameters
        self.record = TeacherRecord("BM25", collection.path, collection.sha256, settings)

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) float32 scores of N pairs.

        Raises:
            DataError: The collection does not have a passage.
        """
        try:
            return self._index.score_pairs(questions, [passage.passage_id for passage in passages])
        except KeyError as error:
            name = error.args[0] or "without an id"
            message = f"{self._path}: no passage {name}, but the rows have it. Use the collection of the rows."
            raise DataError(message) from None


def load_teacher(
    model: str | os.PathLike[str],
    *,
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> Teacher:
    """Load a reranker or a bi-encoder. The files in the folder tell which of them it is.

    Args:
        model: Folder of the model.
        precision: Precision of the model (``Embedder.from_pretrained``). By default the device decides.
        device: Device of the model. By default a GPU if there is one.
        batch_tokens: Maximum number of tokens in a batch on a GPU.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged.
        ValueError: An argument is invalid.
    """
    model, device = os.fspath(model), device or get_default_device()
    if find_teacher_kind(model) == "reranker":
        precision = precision or get_default_precision(device)
        options: dict[str, Any] = {} if batch_tokens is None else {"max_tokens": batch_tokens}
        return RerankerTeacher(Reranker.load(model, precision=precision, device=device, **options), model, precision)
    sides = [
        Embedder.from_pretrained(model, side, precision=precision, device=device) for side in ("question", "passage")
    ]
    for embedder in sides:
        embedder.max_tokens = batch_tokens or embedder.max_tokens
    return BiEncoderTeacher(sides[0], sides[1], model)


def describe_default_precision(precision: str | None, device: str | None) -> list[str]:
    """Return a line about the precision of a teacher if the user did not choose it and it is not float32."""
    device = device or get_default_device()
    return [] if precision is not None else list(describe_precision(get_default_precision(device), device))


def check_finite(scores: np.ndarray, record: TeacherRecord) -> np.ndarray:
    """Return (N,) scores as float32 after a check that they are numbers.

    Raises:
        ArtifactError: A score is infinite or not a number.
    """
    found = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ArtifactError(f"{record.model}: a score is infinite or not a number. Use --encoder_precision=float32.")
    return found


def find_teacher_kind(model: str | os.PathLike[str]) -> str:
    """Return "reranker" for the folder of a cross-encoder, and "bi-encoder" for any other folder.

    Raises:
        ArtifactError: A file of the folder is damaged.
    """
    return "reranker" if is_cross_encoder(model) else "bi-encoder"


def _number_distinct(values: Sequence[Any]) -> dict[Any, int]:
    """Return the place of each distinct value, in order of first occurrence."""
    return {value: place for place, value in enumerate(dict.fromkeys(values))}
