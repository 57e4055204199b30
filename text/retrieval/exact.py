"""Exact search: score every question against every passage. Embeddings stay on disk, and on a GPU if they fit.

A float32 product of all questions and a block of passages finds candidates. They are scored again in float64 from the
embeddings on disk, so a GPU finds the same passages with the same scores as a CPU. Equal scores are ordered by passage
id, highest first, as in trec_eval. Block and shard sizes, and the number of questions, do not change the result. FAISS
and Milvus are tested against this search.

Dimensions: N questions; R passages of the collection; P passages of a block; C candidates; D width of an embedding;
K passages found for a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from text.models.full_float32 import full_float32
from text.models.linear import multiply
from text.models.transfers import send_to
from text.progress import Progress, show_progress
from text.retrieval.arguments import check_k
from text.retrieval.candidates import Candidates, search_block
from text.retrieval.device_blocks import DeviceBlocks, MemoryBudget, measure_memory
from text.retrieval.memory import Embeddings

BLOCK = 1 << 15
"""Passages per matrix product."""
_QUESTIONS = 1 << 10
"""Questions per matrix product."""
_RESCORED = 4
"""Questions whose candidates are rescored together. Their embeddings fit into the CPU cache."""
_SPARE = 16
"""Minimum number of extra candidates per question, because the scores of the first pass are rounded."""
_SCANNED = 64
"""Questions that are compared with all passages together, if their candidates do not suffice."""
_CANDIDATE_BYTES = 24
"""Bytes per candidate: a float32 score and an int64 row, in chunks of questions and then in one tensor."""
_Pairs = list[tuple[float, str]]
"""Exact scores and ids, best first."""


class Hits(NamedTuple):
    """Passages found for one question, best first."""

    passage_ids: list[str]
    scores: list[float]


class ExactSearch:
    """Exact search over the embeddings of a collection. On a GPU, the embeddings that fit stay there between searches.

    Args:
        shards: Embeddings of the collection.
        device: Device for the matrix products, such as "cuda".
        memory: Memory that the search may use on the device. By default it is measured now.
    """

    def __init__(
        self, shards: Embeddings, device: str | torch.device = "cpu", memory: MemoryBudget | None = None
    ) -> None:
        self.shards, self.device = shards, torch.device(device)
        self._memory = memory or measure_memory(self.device)
        self._blocks = DeviceBlocks(shards, self.device, BLOCK, self._memory)
        self._largest_norm: float | None = None
        """Largest norm of an embedding of the collection, once all embeddings were read."""

    def search(self, questions: Tensor, k: int) -> list[Hits]:
        """Return the k passages with the highest dot product for each question. See ``search_exact``."""
        check_questions(self.shards, questions, k)
        passes = questions.to(torch.float32).split(self._count_questions(k))
        with show_progress("Searching", len(passes) * len(self.shards), "passages") as progress:
            return [hits for part in passes for hits in self._search_once(part, k, progress)]

    def _count_questions(self, k: int) -> int:
        """Return the number of questions that fit into the memory for one pass over the collection."""
        num_bytes = 4 * self.shards.embedding_dim + _CANDIDATE_BYTES * _count_candidates(k, len(self.shards))
        return max(_QUESTIONS, self._memory.questions // num_bytes)

    def _search_once(self, questions: Tensor, k: int, progress: Progress) -> list[Hits]:
        """Search in one pass over the collection, and in a second pass for questions that the first leaves open."""
        with torch.inference_mode(), full_float32(self.device.type):
            scores, rows, largest_norm = self._find_candidates(questions, k, progress)
            errors = _bound_errors(questions, largest_norm)
            kept = self._rescore(questions, scores, rows, errors, k)
            lowest = torch.tensor([pairs[-1][0] for pairs in kept])
            if rows.shape[1] < len(self.shards):
                # A passage that is not a candidate may be among the k best.
                doubtful = (scores[:, -1] + errors >= lowest).nonzero()[:, 0]
                found = self._scan_all(questions[doubtful], lowest[doubtful], errors[doubtful], k)
                for row, pairs in zip(doubtful.tolist(), found, strict=True):
                    kept[row] = pairs
        return [_build_hits(pairs) for pairs in kept]

    def _find_candidates(self, questions: Tensor, k: int, progress: Progress) -> tuple[Tensor, Tensor, float]:
        """Return the (N, C) rounded scores and rows of the best candidates, and the largest norm of all passages.

        The best comes first. Candidates with the lowest score are an arbitrary choice among equals.
        """
        num_candidates = _count_candidates(k, len(self.shards))
        chunks = send_to(questions, self.device).split(_QUESTIONS)
        candidates = [Candidates.start(chunk) for chunk in chunks]
        norm = torch.zeros((), device=self.device)  # The host reads it once, at the end.
        for first, passages in self._blocks:
            if self._largest_norm is None:
                norm = torch.maximum(norm, passages.norm(dim=1).max())
            for place, chunk in enumerate(chunks):
                scores, places = search_block(chunk, passages, min(num_candidates, len(passages)))
                candidates[place] = candidates[place].merge(scores, places + first, num_candidates)
            progress.update(len(passages))
        if self._largest_norm is None:
            self._largest_norm = float(norm)
        scores, rows = (torch.cat(parts).cpu() for parts in zip(*candidates, strict=True))
        return scores, rows, self._largest_norm

    def _rescore(self, questions: Tensor, scores: Tensor, rows: Tensor, errors: Tensor, k: int) -> list[_Pairs]:
        """Return the k best of (N, C) candidates by exact score and then by id.

        Matrix products round differently depending on the shape, so the candidates are scored again in float64. Only
        candidates that can be among the k best are. Their rounded score is at most two errors below the k-th best.
        """
        num_least = min(k, scores.shape[1])
        least = scores[:, num_least - 1] - 2 * errors
        num_needed = (scores >= least[:, None]).sum(dim=1).clamp(min=num_least)
        kept: list[_Pairs] = []
        for start in range(0, len(questions), _RESCORED):
            part = slice(start, start + _RESCORED)
            needed = rows[part, : int(num_needed[part].max())]
            kept += [pairs[:k] for pairs in _score_rows(self.shards, questions[part], needed.numpy())]
        return kept

    def _scan_all(self, questions: Tensor, lowest: Tensor, errors: Tensor, k: int) -> list[_Pairs]:
        """Return the k best of all passages for each question. Passages whose rounded score is too low are skipped.

        Args:
            questions: (N, D) float32.
            lowest: (N,) exact scores that the k best reach.
            errors: (N,) maximum rounding errors of the scores.
            k: Passages per question.
        """
        if not len(questions):
            return []
        kept: list[_Pairs] = [[] for _ in questions]
        lowest, chunks = lowest.clone(), send_to(questions, self.device).split(_SCANNED)
        for first, passages in self._blocks:
            least = send_to(lowest - errors, self.device).split(_SCANNED)
            for number, (chunk, limits) in enumerate(zip(chunks, least, strict=True)):
                pairs = (multiply(chunk, passages) >= limits[:, None]).nonzero().cpu().numpy()
                for place in np.unique(pairs[:, 0]):
                    row, rows = number * _SCANNED + int(place), pairs[pairs[:, 0] == place, 1] + first
                    [scored] = _score_rows(self.shards, questions[row, None], rows[None])
                    kept[row] = sorted([*kept[row], *scored], reverse=True)[:k]
                    if len(kept[row]) == k:
                        lowest[row] = max(float(lowest[row]), kept[row][-1][0])
        return kept


def search_exact(shards: Embeddings, questions: Tensor, k: int, *, device: str = "cpu") -> list[Hits]:
    """Return the k passages with the highest dot product for each question.

    ``ExactSearch`` does the same, and keeps embeddings on a GPU for the next search.

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
    return ExactSearch(shards, device).search(questions, k)


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


def _count_candidates(k: int, num_passages: int) -> int:
    """Return C."""
    return min(k + max(_SPARE, k // 4), num_passages)


def _bound_errors(questions: Tensor, largest_norm: float) -> Tensor:
    """Return the (N,) maximum rounding errors of float32 scores, for any order of the sums and any device.

    A float32 dot product of two embeddings is off by at most D * 2**-24 times the product of their norms, in whatever
    order it is summed (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Comparisons round three more
    numbers to float32. One percent covers the rounding of the norms and of this bound, up to a D of 100,000. The
    float32 values of float16 and int8 embeddings are the same on all devices, so they add no error.
    """
    return 1.01 * (questions.shape[1] + 3) * 2**-24 * largest_norm * questions.norm(dim=1)


def _score_rows(shards: Embeddings, questions: Tensor, rows: np.ndarray) -> list[_Pairs]:
    """Return the exact scores and ids of (N, C) rows, best first.

    The sum along the last dimension adds in the same order for any number of rows. A matrix product does not.
    """
    passages = torch.from_numpy(shards.read_rows(rows.ravel())).double().view(*rows.shape, questions.shape[1])
    scores = (passages * questions.double()[:, None]).sum(dim=-1).float().tolist()
    ids = np.array(shards.get_passage_ids(rows.ravel()), dtype=object).reshape(rows.shape).tolist()
    return [sorted(zip(*pair, strict=True), reverse=True) for pair in zip(scores, ids, strict=True)]


def _build_hits(pairs: Sequence[tuple[float, str]]) -> Hits:
    return Hits([passage_id for _, passage_id in pairs], [score for score, _ in pairs])
