"""PassagePool: every question of an evaluation ranked among all its passages.

In-batch figures depend on the batch size. Here the passages of all batches, and of all ranks, form one pool, as in
DPR's average rank, and each question is ranked in the whole of it. A passage that stands in several
rows is in the pool once: a place among the first k means k different passages. What is known to
answer a question, wherever it stands, does not count against it.

Dimensions: N questions and P different passages of the whole evaluation; D width of an embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from text.evaluation import ahead_of_positive, average_rank, mean_reciprocal_rank, recall
from text.losses import similarity_logits
from text.records import BiEncoderBatch
from text.training.distributed import AllRanks, gather_padded, num_ranks, this_rank
from text.transforms import known_positive_mask

RECALL_AT = (1, 5, 20, 100)
_RANDOM_PAIRS = 4096


class _Questions(NamedTuple):
    """The questions of one batch; ``positive_index`` counts in the pool."""

    embeddings: Tensor
    positive_index: Tensor
    known_positives: Tensor
    places: Tensor


class PooledPassage(NamedTuple):
    """A passage by where it is found, and how near it is to a question."""

    place: tuple[int, int]
    """Data set, and row in it, of a question that brings the passage."""
    keys: tuple[int, int]
    """The passage's identity, as in ``Passage.keys``."""
    score: float


class Outranked(NamedTuple):
    """A question whose positive is not the first."""

    place: tuple[int, int]
    """Data set, and row in it."""
    num_above: int
    """Passages that stand before the positive: its 0-based rank."""
    positive: PooledPassage
    above: list[PooledPassage]
    """The first of these, best first."""


class PassagePool:
    """Collects batches, then ranks; holds embeddings in host memory, never all (N, P) scores.

    Args:
        similarity: "dot" or "cosine", as in training.
    """

    def __init__(self, similarity: str = "dot") -> None:
        self.similarity = similarity
        self.num_passages = 0
        """Different passages."""
        self._questions: list[_Questions] = []
        self._passages: list[Tensor] = []
        self._passage_keys: list[Tensor] = []
        self._passage_places: list[Tensor] = []
        self._ranks: Tensor | None = None  # once found
        self._rows: dict[int, int] = {}  # of each key's passage

    def add(self, batch: BiEncoderBatch, question_embeddings: Tensor, passage_embeddings: Tensor) -> None:
        """Takes in the embeddings of this rank's share of a batch; every rank must call this for its own."""
        self._ranks = None
        device = passage_embeddings.device
        of_questions, of_passages = (AllRanks(len(rows), device) for rows in (question_embeddings, passage_embeddings))
        passage_keys = of_passages.gather(batch.passage_keys).cpu()
        rows, is_new = self._place(passage_keys)
        places = torch.stack([batch.sources, batch.rows], dim=1)
        self._questions.append(
            _Questions(
                of_questions.gather(question_embeddings.detach().float()).cpu(),
                rows[of_questions.gather(batch.positive_index + of_passages.start).cpu()],
                gather_padded(batch.known_positives, of_questions).cpu(),
                of_questions.gather(places).cpu(),
            )
        )
        self._passages.append(of_passages.gather(passage_embeddings.detach().float()).cpu()[is_new])
        self._passage_keys.append(passage_keys[is_new])
        self._passage_places.append(of_passages.gather(places[batch.owner]).cpu()[is_new])

    def ranks(self, device: torch.device | str = "cpu") -> Tensor:
        """0-based rank of each question's positive among all passages, (N,) int64, in order of adding.

        Each process does its share of the work. Memory on ``device``: all passages, and one batch's scores.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        passages, passage_keys = self._all_passages(device)
        own = slice(*(len(self._questions) * rank // num_ranks() for rank in (this_rank(), this_rank() + 1)))
        ranks = [self._compare(questions, passages, passage_keys)[1].sum(dim=1) for questions in self._questions[own]]
        found = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *ranks])
        self._ranks = AllRanks(len(found), found.device).gather(found).cpu()
        return self._ranks

    def worst(self, num_questions: int, num_above: int, device: torch.device | str = "cpu") -> list[Outranked]:
        """The questions whose positives rank lowest, lowest first, without those that rank first; after ``ranks``.

        Of equal ranks, the question that was added earlier comes first. Any one process may call this alone. Scores
        are computed again, batch by batch as they were, for the batches that hold these questions.

        Args:
            num_questions: Most questions.
            num_above: Most passages to tell of each.
            device: That of ``ranks``.
        """
        assert self._ranks is not None, "ranks come first"
        order = self._ranks.argsort(descending=True, stable=True)[:num_questions]
        chosen = [int(question) for question in order if self._ranks[question]]
        passages, passage_keys = self._all_passages(device)
        found, start = {}, 0
        for questions in self._questions:
            of_batch = [number - start for number in chosen if start <= number < start + len(questions.places)]
            if of_batch:
                scores, ahead = self._compare(questions, passages, passage_keys)
                for row in of_batch:
                    found[start + row] = self._outranked(questions, row, scores[row].cpu(), ahead[row].cpu(), num_above)
            start += len(questions.places)
        return [found[number] for number in chosen]

    def metrics(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """average_rank, mrr@10 and recall@1/5/20/100 over the pool; and two signs of a collapse.

        These are the mean cosine of random passages, near 1 where the encoder gives all texts one embedding, and
        the mean length of a passage's embedding.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        ranks = self.ranks(device)
        return {
            "average_rank": average_rank(ranks),
            "mrr@10": mean_reciprocal_rank(ranks, 10),
            **{f"recall@{k}": recall(ranks, k) for k in RECALL_AT},
            "passage_cosine": self._mean_cosine(),
            "passage_norm": torch.cat(self._passages).norm(dim=1).mean().item(),
        }

    def _mean_cosine(self) -> float:
        """Return the mean cosine of random pairs of passages, the same pairs in each evaluation."""
        passages = torch.cat(self._passages)
        one = torch.randint(len(passages), (_RANDOM_PAIRS,), generator=torch.Generator().manual_seed(0))
        steps = torch.randint(1, max(2, len(passages)), (_RANDOM_PAIRS,), generator=torch.Generator().manual_seed(1))
        other = (one + steps) % len(passages)
        return F.cosine_similarity(passages[one], passages[other], dim=1).mean().item()

    def _place(self, passage_keys: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each passage in the pool, and whether it was not there before."""
        rows, is_new = [], []
        for by_id, by_content in passage_keys.tolist():
            known = self._rows.get(by_id, self._rows.get(by_content))
            rows.append(self.num_passages if known is None else known)
            is_new.append(known is None)
            self.num_passages += is_new[-1]
            self._rows[by_id] = self._rows[by_content] = rows[-1]
        return torch.tensor(rows, dtype=torch.int64), torch.tensor(is_new, dtype=torch.bool)

    def _all_passages(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Embeddings, (P, D), and keys, (P, 2)."""
        return torch.cat(self._passages).to(device), torch.cat(self._passage_keys).to(device)

    def _compare(self, questions: _Questions, passages: Tensor, passage_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each passage for a batch, (B, P), and whether it is ahead of the positive."""
        embeddings, positive_index, known_positives, _ = (field.to(passages.device) for field in questions)
        scores = similarity_logits(embeddings, passages, similarity=self.similarity)
        ignore = known_positive_mask(known_positives, passage_keys, positive_index)
        return scores, ahead_of_positive(scores, positive_index, ignore=ignore)

    def _outranked(self, questions: _Questions, row: int, scores: Tensor, ahead: Tensor, num_above: int) -> Outranked:
        """One question of a batch, with (P,) scores."""
        places, keys = torch.cat(self._passage_places), torch.cat(self._passage_keys)

        def pooled(passage: int) -> PooledPassage:
            place, names = places[passage].tolist(), keys[passage].tolist()
            return PooledPassage((place[0], place[1]), (names[0], names[1]), scores[passage].item())

        best_first = scores.masked_fill(~ahead, -torch.inf).argsort(descending=True, stable=True)
        above = best_first[: min(num_above, int(ahead.sum()))].tolist()
        place = questions.places[row].tolist()
        positive = pooled(int(questions.positive_index[row]))
        return Outranked((place[0], place[1]), int(ahead.sum()), positive, [pooled(passage) for passage in above])
