"""Exact search: every question against every passage, over embeddings that stay on disk. The reference for all others.

Passages come in blocks, so that memory is that of a block and of what was found. Of equal scores, the larger passage
id comes first, as in trec_eval; the result is the same for any size of blocks and shards.

Dimensions: N questions; R passages of the collection; D width of an embedding; K passages found for a question.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from text.models.linear import multiply
from text.progress import Progress, show_progress
from text.retrieval.arguments import check_k
from text.retrieval.memory import Embeddings

BLOCK = 1 << 15
"""Passages compared at once."""
_QUESTIONS = 1 << 10
"""Questions compared at once."""
_CHECKED = 4
"""Questions whose candidates are multiplied again at once: as many as a processor's cache holds."""
_COLUMN = 16
"""Passages of which only the best is looked at first."""
_SPARE = 16
"""Candidates besides those asked for, since their scores are rounded."""
_ROUNDING = 1e-5
"""Most error of a product in float32, as a share of both norms."""


class Found(NamedTuple):
    """Passages found for one question, best first."""

    passage_ids: list[str]
    scores: list[float]


def search_exact(shards: Embeddings, questions: Tensor, k: int, *, device: str = "cpu") -> list[Found]:
    """The k passages with the largest dot product, for each question.

    Args:
        shards: Of the collection.
        questions: (N, D) float32, by the same model.
        k: Passages for a question; all of them, where the collection has fewer.
        device: That multiplies, such as "cuda".

    Raises:
        ValueError: k is below 1, there is no question, a question is not finite, or D is another.
    """
    check_questions(shards, questions, k)
    found, parts = [], questions.to(torch.float32).split(_QUESTIONS)
    total = len(parts) * len(shards)
    with show_progress("Searching", total, "passages") as progress:
        for some in parts:
            scores, rows, largest_norm = _nearest(shards, some.to(device), min(k + _SPARE, len(shards)), progress)
            lowest, rows, doubts = scores[:, -1].cpu(), rows.cpu(), _ROUNDING * largest_norm * some.norm(dim=1)
            for start in range(0, len(some), _CHECKED):
                part = slice(start, start + _CHECKED)
                found += _best(shards, some[part], lowest[part], rows[part], doubts[part], k)
    return found


def with_passages(
    shards: Embeddings, questions: Tensor, found: Sequence[Found], also: Sequence[Sequence[str]]
) -> list[Found]:
    """Return the found passages and, after them, more passages of each question with their scores.

    Ids that the collection does not have are passed over.
    """
    wanted = {passage_id for of_question in also for passage_id in of_question}
    rows = {name: row for row, name in enumerate(shards.passage_ids()) if name in wanted}
    longer = []
    for question, of_question, ids in zip(questions, found, also, strict=True):
        there = set(of_question.passage_ids)
        missing = [rows[name] for name in dict.fromkeys(ids) if name in rows and name not in there]
        more = in_order(shards, question, np.array(missing, dtype=np.int64), len(missing))
        longer.append(Found(of_question.passage_ids + more.passage_ids, of_question.scores + more.scores))
    return longer


def check_questions(shards: Embeddings, questions: Tensor, k: int) -> None:
    """
    Raises:
        TypeError: k is no whole number.
        ValueError: k is below 1, there is no question, a question is not finite, or D is another.
    """
    check_k(k)
    if not len(questions):
        raise ValueError("no questions; expected one or more")
    if questions.shape[1] != shards.embedding_dim:
        raise ValueError(f"questions have {questions.shape[1]} dimensions, passages {shards.embedding_dim}")
    if not questions.isfinite().all():
        row = int((~questions.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"question {row}: its embedding is NaN or infinite; expected finite numbers")


def in_order(shards: Embeddings, question: Tensor, rows: np.ndarray, k: int) -> Found:
    """The first k of these rows, by score and id."""
    [kept] = _pairs(shards, question[None], rows[None])
    return _found(kept[:k])


def _nearest(shards: Embeddings, questions: Tensor, k: int, progress: Progress) -> tuple[Tensor, Tensor, float]:
    """(N, C) scores, rounded, and rows, best first; of equal ones at the end, any. And the largest norm of all rows."""
    scores, largest_norm = torch.zeros(len(questions), 0, device=questions.device), 0.0
    rows = scores.to(torch.int64)
    for first, block in shards.blocks(BLOCK):
        passages = torch.from_numpy(block).to(questions.device)
        largest_norm = max(largest_norm, float(passages.norm(dim=1).max()))
        of_block, places = _nearest_of_block(questions, passages, min(k, len(block)))
        scores, rows = torch.cat([scores, of_block], dim=1), torch.cat([rows, places + first], dim=1)
        scores, places = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = rows.gather(1, places)
        progress.update(len(block))
    return scores, rows, largest_norm


def _nearest_of_block(questions: Tensor, passages: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(N, k) scores, rounded, and places in the block."""
    faiss = _faiss()
    if faiss is None or questions.is_cuda:
        return _largest(_products(questions, passages), k)
    found = faiss.knn(questions.numpy(), passages.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


@functools.cache
def _faiss() -> ModuleType | None:
    """FAISS, if it is installed and multiplies faster than what comes with torch: without AVX-512 it does."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return None
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    return faiss


def _products(questions: Tensor, passages: Tensor) -> Tensor:
    """(N, P) dot products."""
    with torch.inference_mode():
        return multiply(questions, passages)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of (N, P) scores, and places, as ``topk``: all lie in the k columns with the largest maxima."""
    num_questions, num_passages = scores.shape
    num_columns, left = divmod(num_passages, _COLUMN)
    if num_columns <= k or left:
        return scores.topk(k, dim=1)
    columns = scores.view(num_questions, _COLUMN, num_columns)
    best = columns.amax(dim=1).topk(k, dim=1, sorted=False).indices[:, None].expand(-1, _COLUMN, -1)
    places = best + torch.arange(_COLUMN, device=scores.device)[:, None] * num_columns
    found, order = columns.gather(2, best).flatten(1).topk(k, dim=1)
    return found, places.flatten(1).gather(1, order)


def _best(shards: Embeddings, questions: Tensor, lowest: Tensor, rows: Tensor, doubts: Tensor, k: int) -> list[Found]:
    """The first k of (N, C) candidates, by scores that depend on nothing but the two embeddings, and by id.

    Products of matrices round differently at their edges: the candidates are multiplied again, in float64, and where
    one that is none might be among the first k, all rows that might are. The lowest candidate's score is rounded.
    """
    found = []
    pairs = _pairs(shards, questions, rows.numpy())
    for question, least, doubt, kept in zip(questions, lowest.tolist(), doubts.tolist(), pairs, strict=True):
        if rows.shape[1] < len(shards) and least + doubt >= kept[k - 1][0]:
            kept = _scan(shards, question, least - doubt, k)
        found.append(_found(kept[:k]))
    return found


def _scan(shards: Embeddings, question: Tensor, least: float, k: int) -> list[tuple[float, str]]:
    """The first k of all rows whose rounded score is at least that, however many they are."""
    kept: list[tuple[float, str]] = []
    for first, block in shards.blocks(BLOCK):
        rows = (_products(question[None], torch.from_numpy(block))[0] >= least).nonzero()[:, 0].numpy() + first
        [pairs] = _pairs(shards, question[None], rows[None])
        kept = sorted([*kept, *pairs], reverse=True)[:k]
    return kept


def _pairs(shards: Embeddings, questions: Tensor, rows: np.ndarray) -> list[list[tuple[float, str]]]:
    """Scores, each rounded once, and ids of (N, C) rows, best first.

    A sum along the last dimension has one order, for however many rows; a product of matrices has not.
    """
    passages = torch.from_numpy(shards.rows(rows.ravel())).double().view(*rows.shape, questions.shape[1])
    scores = (passages * questions.double()[:, None]).sum(dim=-1).float().tolist()
    ids = np.array(shards.passage_ids_of(rows.ravel()), dtype=object).reshape(rows.shape).tolist()
    return [sorted(zip(*pair, strict=True), reverse=True) for pair in zip(scores, ids, strict=True)]


def _found(pairs: Sequence[tuple[float, str]]) -> Found:
    return Found([passage_id for _, passage_id in pairs], [score for score, _ in pairs])
