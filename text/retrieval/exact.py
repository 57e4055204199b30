"""Exact search: score every question against every passage. Embeddings stay on disk.

Passages are read in blocks, so memory holds one block and the results. Equal scores are ordered by passage id, highest
first, as in trec_eval. Block and shard sizes do not change the result. FAISS and Milvus are tested against this search.

Dimensions: N questions; R passages of the collection; P passages of a block; C candidates; D width of an embedding;
K passages found for a question.
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
"""Passages per matrix product."""
_QUESTIONS = 1 << 10
"""Questions per matrix product."""
_RESCORED = 4
"""Questions whose candidates are rescored together. Their embeddings fit into the CPU cache."""
_COLUMN = 16
"""Passages per column in ``_select_top_k``."""
_SPARE = 16
"""Extra candidates per question, because the scores of the first pass are rounded."""
_ROUNDING = 1e-5
"""Maximum error of a float32 dot product, relative to the product of the norms."""


class Hits(NamedTuple):
    """Passages found for one question, best first."""

    passage_ids: list[str]
    scores: list[float]


def search_exact(shards: Embeddings, questions: Tensor, k: int, *, device: str = "cpu") -> list[Hits]:
    """Return the k passages with the highest dot product for each question.

    Args:
        shards: Embeddings of the collection.
        questions: (N, D) float32, embedded by the same model.
        k: Passages per question. A smaller collection returns all its passages.
        device: Device for the matrix products, such as "cuda".

    Returns:
        One ``Hits`` per question. The scores are float32 and depend only on the two embeddings.

    Raises:
        TypeError: k is not an integer.
        ValueError: k is below 1, there are no questions, an embedding is not finite, or the widths differ.
    """
    check_questions(shards, questions, k)
    hits, chunks = [], questions.to(torch.float32).split(_QUESTIONS)
    total = len(chunks) * len(shards)
    with show_progress("Searching", total, "passages") as progress:
        for chunk in chunks:
            num_candidates = min(k + _SPARE, len(shards))
            scores, rows, largest_norm = _find_candidates(shards, chunk.to(device), num_candidates, progress)
            lowest, rows, errors = scores[:, -1].cpu(), rows.cpu(), _ROUNDING * largest_norm * chunk.norm(dim=1)
            for start in range(0, len(chunk), _RESCORED):
                part = slice(start, start + _RESCORED)
                hits += _rescore(shards, chunk[part], lowest[part], rows[part], errors[part], k)
    return hits


def append_passages(
    shards: Embeddings, questions: Tensor, hits: Sequence[Hits], extra_ids: Sequence[Sequence[str]]
) -> list[Hits]:
    """Append passages to the hits of each question, with their scores, unless they are hits already.

    Ids that are not in the collection are ignored.
    """
    wanted = {passage_id for ids in extra_ids for passage_id in ids}
    rows = {name: row for row, name in enumerate(shards.iter_passage_ids()) if name in wanted}
    extended = []
    for question, found, ids in zip(questions, hits, extra_ids, strict=True):
        present = set(found.passage_ids)
        missing = [rows[name] for name in dict.fromkeys(ids) if name in rows and name not in present]
        more = rank_rows(shards, question, np.array(missing, dtype=np.int64), len(missing))
        extended.append(Hits(found.passage_ids + more.passage_ids, found.scores + more.scores))
    return extended


def check_questions(shards: Embeddings, questions: Tensor, k: int) -> None:
    """Check the embeddings of questions, and k, before a search.

    Raises:
        TypeError: k is not an integer.
        ValueError: k is below 1, there are no questions, an embedding is not finite, or the widths differ.
    """
    check_k(k)
    if not len(questions):
        raise ValueError("there are no questions. Give at least one.")
    if questions.shape[1] != shards.embedding_dim:
        raise ValueError(
            f"questions have {questions.shape[1]} dimensions, but passages have {shards.embedding_dim}. "
            "Embed both with the same model."
        )
    if not questions.isfinite().all():
        row = int((~questions.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"question {row}: the embedding is NaN or infinite. Check that the model is not damaged.")


def rank_rows(shards: Embeddings, question: Tensor, rows: np.ndarray, k: int) -> Hits:
    """Return the k best of the given rows, by score and then by passage id."""
    [kept] = _score_rows(shards, question[None], rows[None])
    return _build_hits(kept[:k])


def _find_candidates(shards: Embeddings, questions: Tensor, k: int, progress: Progress) -> tuple[Tensor, Tensor, float]:
    """Return the (N, C) rounded scores and rows of the k best candidates, and the largest norm of all passages.

    The best comes first. Candidates with the lowest score are an arbitrary choice among equals.
    """
    scores, largest_norm = torch.zeros(len(questions), 0, device=questions.device), 0.0
    rows = scores.to(torch.int64)
    for first, block in shards.iter_blocks(BLOCK):
        passages = torch.from_numpy(block).to(questions.device)
        largest_norm = max(largest_norm, float(passages.norm(dim=1).max()))
        block_scores, places = _search_block(questions, passages, min(k, len(block)))
        scores, rows = torch.cat([scores, block_scores], dim=1), torch.cat([rows, places + first], dim=1)
        scores, places = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = rows.gather(1, places)
        progress.update(len(block))
    return scores, rows, largest_norm


def _search_block(questions: Tensor, passages: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the (N, k) rounded scores and places in the block of the k best passages."""
    faiss = _import_faiss()
    if faiss is None or questions.is_cuda:
        return _select_top_k(_multiply(questions, passages), k)
    found = faiss.knn(questions.numpy(), passages.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


@functools.cache
def _import_faiss() -> ModuleType | None:
    """Return the faiss module if it is installed and faster than torch. It is faster only on CPUs without AVX-512."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return None
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    return faiss


def _multiply(questions: Tensor, passages: Tensor) -> Tensor:
    """Return the (N, P) dot products."""
    with torch.inference_mode():
        return multiply(questions, passages)


def _select_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of (N, P) scores and their places, like ``topk`` but faster.

    The scores are viewed as columns of 16. The k largest scores are all in the k columns with the largest maxima.
    """
    num_questions, num_passages = scores.shape
    num_columns, left = divmod(num_passages, _COLUMN)
    if num_columns <= k or left:
        return scores.topk(k, dim=1)
    columns = scores.view(num_questions, _COLUMN, num_columns)
    best = columns.amax(dim=1).topk(k, dim=1, sorted=False).indices[:, None].expand(-1, _COLUMN, -1)
    places = best + torch.arange(_COLUMN, device=scores.device)[:, None] * num_columns
    values, order = columns.gather(2, best).flatten(1).topk(k, dim=1)
    return values, places.flatten(1).gather(1, order)


def _rescore(shards: Embeddings, questions: Tensor, lowest: Tensor, rows: Tensor, errors: Tensor, k: int) -> list[Hits]:
    """Return the k best of (N, C) candidates by exact score and then by id.

    Matrix products round differently depending on the shape, so the candidates are scored again in float64. If a
    passage that is not a candidate could be among the k best, all passages that could be are scored as well.

    Args:
        shards: Embeddings of the collection.
        questions: (N, D) float32.
        lowest: (N,) rounded scores of the last candidates.
        rows: (N, C) rows of the candidates.
        errors: (N,) maximum rounding errors of the scores.
        k: Passages per question.
    """
    hits = []
    pairs = _score_rows(shards, questions, rows.numpy())
    for question, least, error, kept in zip(questions, lowest.tolist(), errors.tolist(), pairs, strict=True):
        if rows.shape[1] < len(shards) and least + error >= kept[k - 1][0]:
            kept = _scan_all(shards, question, least - error, k)
        hits.append(_build_hits(kept[:k]))
    return hits


def _scan_all(shards: Embeddings, question: Tensor, least: float, k: int) -> list[tuple[float, str]]:
    """Return the k best of all rows whose rounded score is at least ``least``."""
    kept: list[tuple[float, str]] = []
    for first, block in shards.iter_blocks(BLOCK):
        rows = (_multiply(question[None], torch.from_numpy(block))[0] >= least).nonzero()[:, 0].numpy() + first
        [pairs] = _score_rows(shards, question[None], rows[None])
        kept = sorted([*kept, *pairs], reverse=True)[:k]
    return kept


def _score_rows(shards: Embeddings, questions: Tensor, rows: np.ndarray) -> list[list[tuple[float, str]]]:
    """Return the exact scores and ids of (N, C) rows, best first.

    The sum along the last dimension adds in the same order for any number of rows. A matrix product does not.
    """
    passages = torch.from_numpy(shards.read_rows(rows.ravel())).double().view(*rows.shape, questions.shape[1])
    scores = (passages * questions.double()[:, None]).sum(dim=-1).float().tolist()
    ids = np.array(shards.get_passage_ids(rows.ravel()), dtype=object).reshape(rows.shape).tolist()
    return [sorted(zip(*pair, strict=True), reverse=True) for pair in zip(scores, ids, strict=True)]


def _build_hits(pairs: Sequence[tuple[float, str]]) -> Hits:
    return Hits([passage_id for _, passage_id in pairs], [score for score, _ in pairs])
