"""Find the candidates of a search by rounded scores: the passages that can be among the best.

Dimensions: N questions; P passages of a block; C candidates; D width of an embedding.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from text.models.linear import multiply

_COLUMN = 16
"""Passages per column in ``_select_top_k``."""


class Candidates(NamedTuple):
    """The best candidates of N questions so far."""

    scores: Tensor
    """(N, C) rounded scores, best first."""
    rows: Tensor
    """(N, C) int64."""

    @classmethod
    def start(cls, questions: Tensor) -> Candidates:
        """Return no candidates for (N, D) questions."""
        scores = questions.new_zeros(len(questions), 0)
        return cls(scores, scores.to(torch.int64))

    def merge(self, scores: Tensor, rows: Tensor, k: int) -> Candidates:
        """Return the k best of these and further candidates."""
        scores, rows = torch.cat([self.scores, scores], dim=1), torch.cat([self.rows, rows], dim=1)
        scores, places = scores.topk(min(k, scores.shape[1]), dim=1)
        return Candidates(scores, rows.gather(1, places))


def search_block(questions: Tensor, passages: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the (N, k) rounded scores and places in the block of the k best passages."""
    faiss = _import_faiss()
    if faiss is None or questions.is_cuda:
        return _select_top_k(multiply(questions, passages), k)
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
