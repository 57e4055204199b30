"""Evaluation that ranks the positive of each question among all passages of the evaluation.

In-batch metrics depend on the batch size. Here the passages of all batches and ranks form one pool, and each question
is compared with the whole pool, as in DPR's average rank. A passage that occurs in several rows is in the pool once, so
recall@k is over k different passages. Other known positives of a question never count as ranked above its positive.

Dimensions: N questions and P different passages of the whole evaluation; B questions of a batch; D embedding width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from text.evaluation import ahead_of_positive, average_rank, mean_reciprocal_rank, recall
from text.losses import similarity_logits
from text.models.full_float32 import full_float32
from text.records import BiEncoderBatch
from text.training.distributed import AllRanks, gather_counts, gather_padded, get_rank, get_world_size
from text.transforms import known_positive_mask

RECALL_AT = (1, 5, 20, 100)
"""Values of k of the recall@k metrics."""
_RANDOM_PAIRS = 4096
"""Pairs of passages for the mean cosine similarity."""


class _Questions(NamedTuple):
    """Questions of one batch. ``positive_index`` are rows of the pool."""

    embeddings: Tensor
    positive_index: Tensor
    known_positives: Tensor
    places: Tensor


class PooledPassage(NamedTuple):
    """A passage of the pool, with its location in the data and its score for a question."""

    place: tuple[int, int]
    """Indices of a data set and of a row in it that contains the passage."""
    keys: tuple[int, int]
    """Identity of the passage, as in ``Passage.keys``."""
    score: float
    """Similarity to the question."""


class Outranked(NamedTuple):
    """A question whose positive is not ranked first."""

    place: tuple[int, int]
    """Indices of the data set and of the row in it."""
    num_above: int
    """Number of passages ranked above the positive: its 0-based rank."""
    positive: PooledPassage
    """The question's positive."""
    above: list[PooledPassage]
    """Highest passages that are ranked above the positive, best first."""


class PassagePool:
    """Pool of the questions and passages of an evaluation, with ranking metrics.

    ``add`` each batch, then call ``compute_metrics``. The embeddings are kept in host memory. The (N, P) scores are
    computed batch by batch.

    Args:
        similarity: "dot" or "cosine", as in training.
    """

    def __init__(self, similarity: str = "dot") -> None:
        self.similarity = similarity
        self.num_passages = 0
        """Number of different passages."""
        self._questions: list[_Questions] = []
        self._passages: list[Tensor] = []
        self._passage_keys: list[Tensor] = []
        self._passage_places: list[Tensor] = []
        self._ranks: Tensor | None = None  # set by compute_ranks
        self._rows: dict[int, int] = {}  # row in the pool by passage key

    def add(self, batch: BiEncoderBatch, question_embeddings: Tensor, passage_embeddings: Tensor) -> None:
        """Add the embeddings of this rank's share of a batch. Every rank must call this for its own share."""
        self._ranks = None
        *sizes, num_known = gather_counts(
            len(question_embeddings), len(passage_embeddings), batch.known_positives.shape[1]
        )
        question_ranks, passage_ranks = map(AllRanks, sizes)
        passage_keys = passage_ranks.gather(batch.passage_keys).cpu()
        rows, is_new = self._assign_rows(passage_keys)
        places = torch.stack([batch.sources, batch.rows], dim=1)
        self._questions.append(
            _Questions(
                question_ranks.gather(question_embeddings.detach().float()).cpu(),
                rows[question_ranks.gather(batch.positive_index + passage_ranks.start).cpu()],
                gather_padded(batch.known_positives, question_ranks, max(num_known)).cpu(),
                question_ranks.gather(places).cpu(),
            )
        )
        self._passages.append(passage_ranks.gather(passage_embeddings.detach().float()).cpu()[is_new])
        self._passage_keys.append(passage_keys[is_new])
        self._passage_places.append(passage_ranks.gather(places[batch.owner]).cpu()[is_new])

    def compute_ranks(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the 0-based rank of each question's positive among all passages: (N,) int64, in order of addition.

        The ranks share the work. ``device`` holds all passage embeddings, and the scores of one batch.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        passages, passage_keys = self._get_passages(device)
        own = slice(*(len(self._questions) * rank // get_world_size() for rank in (get_rank(), get_rank() + 1)))
        ranks = [self._compare(questions, passages, passage_keys)[1].sum(dim=1) for questions in self._questions[own]]
        found = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *ranks])
        self._ranks = AllRanks(*gather_counts(len(found))).gather(found).cpu()
        return self._ranks

    def find_worst(self, num_questions: int, num_above: int, device: torch.device | str = "cpu") -> list[Outranked]:
        """Return the questions whose positives are ranked lowest, lowest first. Call ``compute_ranks`` before.

        Questions whose positive is ranked first are never included. Among equal ranks, the question that was added
        earlier comes first. One process may call this alone. Scores are computed again for the batches of these
        questions.

        Args:
            num_questions: Maximum number of questions.
            num_above: Maximum number of passages ``above`` for each question.
            device: Device for the scores, as in ``compute_ranks``.
        """
        assert self._ranks is not None, "call compute_ranks first"
        order = self._ranks.argsort(descending=True, stable=True)[:num_questions]
        chosen = [int(question) for question in order if self._ranks[question]]
        passages, passage_keys = self._get_passages(device)
        found, start = {}, 0
        for questions in self._questions:
            batch_rows = [number - start for number in chosen if start <= number < start + len(questions.places)]
            if batch_rows:
                scores, ahead = self._compare(questions, passages, passage_keys)
                for row in batch_rows:
                    found[start + row] = self._build_outranked(
                        questions, row, scores[row].cpu(), ahead[row].cpu(), num_above
                    )
            start += len(questions.places)
        return [found[number] for number in chosen]

    def compute_metrics(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """Return ranking metrics (average_rank, mrr@10, recall@1/5/20/100), and two signs of representation collapse.

        ``passage_cosine`` is the mean cosine similarity of random pairs of passages. It is near 1 if the encoder maps
        all texts to the same embedding. ``passage_norm`` is the mean length of a passage embedding.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        ranks = self.compute_ranks(device)
        return {
            "average_rank": average_rank(ranks),
            "mrr@10": mean_reciprocal_rank(ranks, 10),
            **{f"recall@{k}": recall(ranks, k) for k in RECALL_AT},
            "passage_cosine": self._mean_cosine(),
            "passage_norm": torch.cat(self._passages).norm(dim=1).mean().item(),
        }

    def _mean_cosine(self) -> float:
        """Return the mean cosine similarity of random pairs of passages. Each evaluation uses the same pairs."""
        passages = torch.cat(self._passages)
        one = torch.randint(len(passages), (_RANDOM_PAIRS,), generator=torch.Generator().manual_seed(0))
        steps = torch.randint(1, max(2, len(passages)), (_RANDOM_PAIRS,), generator=torch.Generator().manual_seed(1))
        other = (one + steps) % len(passages)
        return F.cosine_similarity(passages[one], passages[other], dim=1).mean().item()

    def _assign_rows(self, passage_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of each passage in the pool, and whether the passage is new."""
        rows, is_new = [], []
        for id_key, content_key in passage_keys.tolist():
            known = self._rows.get(id_key, self._rows.get(content_key))
            rows.append(self.num_passages if known is None else known)
            is_new.append(known is None)
            self.num_passages += is_new[-1]
            self._rows[id_key] = self._rows[content_key] = rows[-1]
        return torch.tensor(rows, dtype=torch.int64), torch.tensor(is_new, dtype=torch.bool)

    def _get_passages(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return the embeddings, (P, D), and the keys, (P, 2), of all passages."""
        return torch.cat(self._passages).to(device), torch.cat(self._passage_keys).to(device)

    def _compare(self, questions: _Questions, passages: Tensor, passage_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of a batch, (B, P), and a mask of the passages ranked above the positive, (B, P) bool."""
        embeddings, positive_index, known_positives, _ = (field.to(passages.device) for field in questions)
        with full_float32(passages.device.type):  # Training may allow TF32.
            scores = similarity_logits(embeddings, passages, similarity=self.similarity)
        ignore = known_positive_mask(known_positives, passage_keys, positive_index)
        return scores, ahead_of_positive(scores, positive_index, ignore=ignore)

    def _build_outranked(
        self, questions: _Questions, row: int, scores: Tensor, ahead: Tensor, num_above: int
    ) -> Outranked:
        """Return an Outranked for one question of a batch, with its (P,) scores and mask."""
        places, keys = torch.cat(self._passage_places), torch.cat(self._passage_keys)

        def build_passage(passage: int) -> PooledPassage:
            place, names = places[passage].tolist(), keys[passage].tolist()
            return PooledPassage((place[0], place[1]), (names[0], names[1]), scores[passage].item())

        best_first = scores.masked_fill(~ahead, -torch.inf).argsort(descending=True, stable=True)
        above = best_first[: min(num_above, int(ahead.sum()))].tolist()
        place = questions.places[row].tolist()
        positive = build_passage(int(questions.positive_index[row]))
        return Outranked((place[0], place[1]), int(ahead.sum()), positive, [build_passage(each) for each in above])
