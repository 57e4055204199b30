"""Training objective, which selects the positives and negatives of each question among the passages of all ranks.

text/losses.py computes the losses. Logits are computed in tiles of rows, and again in the backward pass. So memory
grows with the number of questions plus passages, not with their product.

Dimensions: B questions and P passages of this rank; A passages and C questions of all ranks; D embedding width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from text.errors import SettingsWarning
from text.losses import (
    SIMILARITIES,
    distillation_kl,
    embedding_distance,
    in_batch_nll,
    likely_positives,
    margin_mse,
    multi_positive_nll,
)
from text.records import BiEncoderBatch
from text.training.distillation import check_teacher_settings, mix_losses
from text.training.distributed import AllRanks, gather_counts, gather_padded
from text.transforms import match_keys, match_known_positives

_MAX_FLOOR_SHARE = 0.1
"""Highest acceptable minimum of the loss, as a share of the loss of an untrained model."""
TILE_SIZE = 1 << 24
"""Maximum number of logits in a tile: 64 MiB in float32."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss of each question of a batch, in nats. Fields without ``flag: False`` become flags of ``dpr-text train``.

    Raises:
        ValueError: ``symmetric`` is set without ``in_batch_negatives``, ``similarity`` is unknown, or a number is
            out of range.
    """

    temperature: float = field(default=1.0, metadata={"flag": False})
    """Divides the logits. DPR uses 1; cosine similarity needs about 0.05."""
    similarity: str = field(default="dot", metadata={"flag": False})
    """Similarity of embeddings: dot product ("dot") or cosine similarity ("cosine")."""
    in_batch_negatives: bool = True
    """Also use the passages of other questions in the batch as negatives. With false, a question is compared only with
    the passages of its own row."""
    all_positives: bool = field(default=False, metadata={"flag": False})
    """Use every known positive in the batch as a positive (``multi_positive_nll``), not only the first one."""
    symmetric: bool = False
    """Add the passage-to-question loss and average both directions. Use it if you also search questions by passages."""
    matryoshka_dims: tuple[int, ...] = ()
    """Also train these leading dimensions (Matryoshka, arXiv:2205.13147), such as 256, 128 and 64. Use it if embeddings
    will be shortened later."""
    guide_margin: float | None = None
    """Remove negatives that the guide scores above its score of the positive minus this margin, because they may
    be positives. Needs --score_key."""
    distillation: float = 0.0
    """Weight (0 to 1) of the distillation loss, which compares the scores of a question's own passages with the
    teacher's scores. Use it if a stronger model has scored the passages. Needs --score_key."""
    distillation_loss: Literal["kl", "margin_mse"] = "kl"
    """Loss for --distillation: the KL divergence of the softmax (kl), or Margin-MSE (margin_mse, arXiv:2010.02666), the
    squared error of the margin between the positive and each other passage. Margin-MSE ignores --temperature. Use it
    with the dot product, so that the scores can reach the teacher's scale."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores in the distillation loss. Raise it if the teacher's scores differ by much more than
    1. For margin_mse, raise it if they differ by more than the model's scores can."""
    embedding_distillation: float = 0.0
    """Weight (0 to 1) of the squared distance between the model's embeddings and a teacher's embeddings of the same
    texts. The other losses have 1 minus this weight. Needs --teacher_passages or --teacher_questions."""

    def __post_init__(self) -> None:
        check_teacher_settings(
            guide_margin=self.guide_margin,
            distillation=self.distillation,
            distillation_loss=self.distillation_loss,
            teacher_temperature=self.teacher_temperature,
        )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; expected a number above 0")
        if self.similarity not in SIMILARITIES:
            raise ValueError(f'similarity is "{self.similarity}". Supported are {" and ".join(SIMILARITIES)}.')
        if min(self.matryoshka_dims, default=1) < 1:
            raise ValueError(f"matryoshka_dims are {list(self.matryoshka_dims)}; expected positive numbers")
        if not 0 <= self.embedding_distillation <= 1:
            raise ValueError(f"embedding_distillation is {self.embedding_distillation}; expected a weight from 0 to 1")
        if self.symmetric and not self.in_batch_negatives:
            raise ValueError(
                "symmetric needs in_batch_negatives: it compares a passage with all questions of the batch"
            )

    def __call__(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Tensor:
        """Return the loss of each question. Every rank must call this for its share of a batch.

        Args:
            batch: Positives, keys and scores of the questions and passages.
            questions: (B, D) embeddings.
            passages: (P, D) embeddings.

        Returns:
            (B,) float.

        Raises:
            ValueError: Embeddings have fewer dimensions than one of ``matryoshka_dims``, or the batch has no embeddings
                of a teacher although ``embedding_distillation`` needs them.
        """
        losses = self._compare(batch, questions, passages)
        weight = self.embedding_distillation
        return (
            (1 - weight) * losses + weight * self._measure_distances(batch, questions, passages) if weight else losses
        )

    def _compare(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Tensor:
        """Return the (B,) losses of the scores: the contrastive loss, mixed with the distillation loss."""
        width = questions.shape[1]
        self.check_width(width)
        counts = gather_counts(len(questions), len(passages), batch.known_positives.shape[1])
        directions = [self._build_question_loss(batch, questions, passages, AllRanks(counts[1]))]
        if self.symmetric:
            directions.append(self._build_passage_loss(batch, questions, passages, AllRanks(counts[0]), max(counts[2])))
        widths = (width, *self.matryoshka_dims)
        losses = torch.stack([direction(dims) for dims in widths for direction in directions]).mean(dim=0)
        if not self.distillation:
            return losses
        distill = self._build_distillation_loss(batch, questions, passages)
        is_known = ~batch.scores.isnan()
        return mix_losses(
            losses,
            torch.stack([distill(dims) for dims in widths]).mean(dim=0),
            weight=self.distillation,
            num_scores=torch.zeros_like(losses).index_add(0, batch.owner, is_known.to(losses)),
            has_positive=is_known[batch.positive_index],
            distillation_loss=self.distillation_loss,
        )

    def find_floor(self, num_passages: int) -> float:
        """Return the lowest possible loss, in nats, of a question among P passages with embeddings of length 1.

        In the best case the similarity is 1 with the positive, and -1 with the P - 1 other passages.
        """
        return math.log1p((num_passages - 1) * math.exp(-2 / self.temperature))

    def check_temperature(self, num_passages: int, *, is_unit_length: bool) -> None:
        """Warn if the temperature is so high that training cannot reduce the loss much.

        Args:
            num_passages: Number of passages that a question is compared with.
            is_unit_length: True if similarities lie between -1 and 1: cosine similarity, or embeddings of length 1.
        """
        floor, start = self.find_floor(num_passages), math.log(max(1, num_passages))
        if is_unit_length and self.distillation < 1 and floor > _MAX_FLOOR_SHARE * start:
            warnings.warn(
                f"the loss cannot fall below {floor:.2f} (an untrained model has {start:.2f}), because scores lie "
                f"between -1 and 1 and the temperature is {self.temperature:g}. Use --temperature=0.05.",
                SettingsWarning,
                stacklevel=2,
            )

    def check_width(self, width: int) -> None:
        """Check that embeddings are wide enough for ``matryoshka_dims``.

        Raises:
            ValueError: An entry of ``matryoshka_dims`` is above ``width``.
        """
        if max(self.matryoshka_dims, default=0) > width:
            raise ValueError(
                f"matryoshka_dims are {list(self.matryoshka_dims)}, but embeddings have {width} dimensions"
            )

    def _build_question_loss(
        self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor, ranks: AllRanks
    ) -> Callable[[int], Tensor]:
        """Return a function that maps a number of dimensions to the (B,) losses of questions among passages."""
        passage_keys, positive_index = batch.passage_keys, batch.positive_index
        if self.in_batch_negatives:
            passages, passage_keys = ranks.gather(passages), ranks.gather(passage_keys)
            positive_index = positive_index + ranks.start

        def compute_losses(dims: int, rows: slice) -> Tensor:
            sides, own = (questions[rows, :dims], passages[:, :dims]), positive_index[rows]
            positives = match_known_positives(batch.known_positives[rows], passage_keys)
            ignore = self._mask_likely_positives(batch, passage_keys, rows)
            if not self.in_batch_negatives:
                is_other_row = _mask_other_rows(batch.owner, rows)
                positives, ignore = positives & ~is_other_row, _unite(ignore, is_other_row)
            if self.all_positives:
                return self._multi_positive_nll(*sides, positives.scatter(1, own[:, None], True), ignore=ignore)
            return self._nll(*sides, own, ignore=_unite(ignore, positives))

        return lambda dims: _compute_in_tiles(partial(compute_losses, dims), len(questions), len(passages))

    def _build_passage_loss(
        self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor, ranks: AllRanks, max_known: int
    ) -> Callable[[int], Tensor]:
        """Return a function that maps a number of dimensions to the (B,) losses of positives among questions."""
        own = torch.arange(len(questions), device=questions.device) + ranks.start
        positives, keys = passages[batch.positive_index], batch.passage_keys[batch.positive_index]
        questions, known = ranks.gather(questions), gather_padded(batch.known_positives, ranks, max_known)

        def compute_losses(dims: int, rows: slice) -> Tensor:
            # A question that the passage also answers is not a negative.
            ignore = match_known_positives(known, keys[rows]).T
            return self._nll(positives[rows, :dims], questions[:, :dims], own[rows], ignore=ignore)

        return lambda dims: _compute_in_tiles(partial(compute_losses, dims), len(positives), len(questions))

    def _build_distillation_loss(
        self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor
    ) -> Callable[[int], Tensor]:
        """Return a function that maps a number of dimensions to the (B,) distillation losses.

        A question is compared with its own passages.
        """
        compare = partial(
            margin_mse if self.distillation_loss == "margin_mse" else self._distillation_kl,
            teacher_temperature=self.teacher_temperature,
            similarity=self.similarity,
            reduction="none",
        )

        def compute_losses(dims: int, rows: slice) -> Tensor:
            scores = batch.scores.expand(rows.stop - rows.start, -1)
            scores = scores.masked_fill(_mask_other_rows(batch.owner, rows), torch.nan)
            return compare(questions[rows, :dims], passages[:, :dims], batch.positive_index[rows], scores)

        return lambda dims: _compute_in_tiles(partial(compute_losses, dims), len(questions), len(passages))

    def _measure_distances(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Tensor:
        """Return the (B,) distances to the embeddings of a teacher, averaged over the sides that the teacher has.

        The distance of a question's passages is the mean over the passages of its own row. Leading dimensions need no
        terms of their own: the distance is a sum over dimensions.
        """
        distances, measure = [], partial(embedding_distance, similarity=self.similarity)
        if batch.question_targets is not None:
            distances.append(measure(questions, batch.question_targets))
        if batch.passage_targets is not None:
            of_passages = measure(passages, batch.passage_targets)
            sums = of_passages.new_zeros(len(questions)).index_add(0, batch.owner, of_passages)
            counts = of_passages.new_zeros(len(questions)).index_add(0, batch.owner, torch.ones_like(of_passages))
            distances.append(sums / counts)  # A question has at least its positive.
        if not distances:
            raise ValueError("embedding_distillation needs the embeddings of a teacher, but the batch has none.")
        return torch.stack(distances).mean(dim=0)

    def _mask_likely_positives(self, batch: BiEncoderBatch, passage_keys: Tensor, rows: slice) -> Tensor | None:
        """Return a mask, (rows, A) bool, of the passages that are probably other positives of a question.

        They are found by the scores of a question's own passages. All copies of such a passage are included.

        Args:
            batch: Scores of each question's own passages.
            passage_keys: (A, 2) int64 keys of the passages that a question is compared with.
            rows: Questions of the mask.
        """
        if self.guide_margin is None:
            return None
        num_rows = rows.stop - rows.start
        is_likely = likely_positives(batch.scores, batch.owner, batch.positive_index, self.guide_margin)
        is_likely = is_likely & (batch.owner >= rows.start) & (batch.owner < rows.stop)
        own_rows = (batch.owner - rows.start).masked_fill(~is_likely, num_rows)
        return match_keys(own_rows, batch.passage_keys, passage_keys, num_rows)

    def _nll(self, *arguments: Tensor, ignore: Tensor) -> Tensor:
        return in_batch_nll(
            *arguments, ignore=ignore, temperature=self.temperature, similarity=self.similarity, reduction="none"
        )

    def _distillation_kl(
        self, questions: Tensor, passages: Tensor, _positive_index: Tensor, scores: Tensor, **options: Any
    ) -> Tensor:
        return distillation_kl(questions, passages, scores, temperature=self.temperature, **options)

    def _multi_positive_nll(self, *arguments: Tensor, ignore: Tensor | None) -> Tensor:
        return multi_positive_nll(
            *arguments, ignore=ignore, temperature=self.temperature, similarity=self.similarity, reduction="none"
        )


def _mask_other_rows(owner: Tensor, rows: slice) -> Tensor:
    """Return a mask, (rows, P) bool: True for passages of other rows."""
    return owner != torch.arange(rows.start, rows.stop, device=owner.device)[:, None]


def _unite(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one | other


def _compute_in_tiles(compute_losses: Callable[[slice], Tensor], num_rows: int, num_columns: int) -> Tensor:
    """Return (num_rows,) losses, computed a few rows at a time."""
    size = max(1, TILE_SIZE // max(1, num_columns))
    if num_rows <= size:
        return compute_losses(slice(0, num_rows))
    tiles = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    return torch.cat(
        [checkpoint(compute_losses, tile, use_reentrant=False, preserve_rng_state=False) for tile in tiles]
    )
