"""Objective: who is compared with whom, among the passages of all ranks; what that costs is left to text.losses.

The logits of many questions and passages are computed in tiles of rows, and once more in the backward pass, so that
memory grows with their numbers and not with their product.

Dimensions: B questions and P passages of this rank; A passages, and C questions, of all ranks; D width of an embedding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from text.errors import SettingsWarning
from text.losses import SIMILARITIES, distillation_kl, in_batch_nll, likely_positives, multi_positive_nll
from text.records import BiEncoderBatch
from text.training.distributed import AllRanks, gather_padded
from text.transforms import known_positive_pairs

_MOST_FLOOR = 0.1
"""Share of the first loss below which the loss must be able to fall."""
TILE = 1 << 24
"""Most logits at once: 64 MiB in float32."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of each question of a batch, in nats. ``dpr-text train`` has its fields as flags.

    Raises:
        ValueError: ``symmetric`` without ``in_batch_negatives``, or a number that is out of range.
    """

    temperature: float = field(default=1.0, metadata={"flag": False})
    """Divides the logits. DPR uses 1; cosine similarity needs about 0.05."""
    similarity: str = field(default="dot", metadata={"flag": False})
    """How embeddings are compared: dot product ("dot") or cosine similarity ("cosine")."""
    in_batch_negatives: bool = True
    """Use the passages of the other questions as negatives too. With false, a question is compared with the passages
    of its own row."""
    all_positives: bool = field(default=False, metadata={"flag": False})
    """Use every known positive in the batch as a positive (``multi_positive_nll``), not only the first."""
    symmetric: bool = False
    """Add the passage-to-question loss and average both directions."""
    matryoshka_dims: tuple[int, ...] = ()
    """Also train these leading dimensions (Matryoshka, arXiv:2205.13147), such as 256, 128 and 64."""
    guide_margin: float | None = None
    """Remove a hard negative whose score is above the positive's score minus this margin: it may be a positive. Needs
    --score_key."""
    distillation: float = 0.0
    """Weight, from 0 to 1, of the loss that teaches the order of a question's passages by their scores
    (KL divergence). Needs --score_key."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores."""

    def __post_init__(self) -> None:
        for name in ("temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if self.similarity not in SIMILARITIES:
            raise ValueError(f'similarity is "{self.similarity}". Supported are {" and ".join(SIMILARITIES)}.')
        if min(self.matryoshka_dims, default=1) < 1:
            raise ValueError(f"matryoshka_dims are {list(self.matryoshka_dims)}; expected numbers from 1 on")
        if self.guide_margin is not None and not math.isfinite(self.guide_margin):
            raise ValueError(f"guide_margin is {self.guide_margin}; expected a number")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation is {self.distillation}; expected a weight from 0 to 1")
        if self.symmetric and not self.in_batch_negatives:
            raise ValueError("symmetric needs in_batch_negatives: it finds questions among those of the batch")

    def __call__(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Tensor:
        """Every rank must call this for its share of a batch.

        Args:
            batch: Who stands where, and answers whom.
            questions: (B, D) embeddings.
            passages: (P, D) embeddings.

        Returns:
            (B,) float.

        Raises:
            ValueError: Embeddings have fewer dimensions than one of ``matryoshka_dims``.
        """
        width = questions.shape[1]
        self.check_width(width)
        directions = [self._to_passages(batch, questions, passages)]
        if self.symmetric:
            directions.append(self._to_questions(batch, questions, passages))
        widths = (width, *self.matryoshka_dims)
        losses = torch.stack([direction(dims) for dims in widths for direction in directions]).mean(dim=0)
        if not self.distillation:
            return losses
        taught = self._to_teacher(batch, questions, passages)
        num_scores = torch.zeros_like(losses).index_add(0, batch.owner, (~batch.scores.isnan()).to(losses))
        share = self.distillation * (num_scores > 1)
        return (1 - share) * losses + share * torch.stack([taught(dims) for dims in widths]).mean(dim=0)

    def find_floor(self, num_passages: int) -> float:
        """Return the lowest loss, in nats, of a question and P passages whose embeddings all have length 1.

        The best case is a similarity of 1 with the positive and of -1 with the P - 1 other passages.
        """
        return math.log1p((num_passages - 1) * math.exp(-2 / self.temperature))

    def check_temperature(self, num_passages: int, *, is_unit_length: bool) -> None:
        """Warn if the loss stays near that of a model that has learned nothing, whatever the model learns.

        Args:
            num_passages: Passages that a question is compared with in a batch.
            is_unit_length: The similarity lies between -1 and 1: it is cosine, or embeddings have length 1.
        """
        floor, start = self.find_floor(num_passages), math.log(max(1, num_passages))
        if is_unit_length and self.distillation < 1 and floor > _MOST_FLOOR * start:
            warnings.warn(
                f"the loss cannot fall below {floor:.2f}, and is {start:.2f} before anything is learned: scores lie "
                f"between -1 and 1, and the temperature is {self.temperature:g}. Use --temperature=0.05.",
                SettingsWarning,
                stacklevel=2,
            )

    def check_width(self, width: int) -> None:
        """Check that embeddings have the dimensions that the objective uses.

        Raises:
            ValueError: An entry of ``matryoshka_dims`` is above ``width``.
        """
        if max(self.matryoshka_dims, default=0) > width:
            raise ValueError(f"matryoshka_dims are {list(self.matryoshka_dims)}; embeddings have {width} dimensions")

    def _to_passages(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Callable[[int], Tensor]:
        """By the number of dimensions, (B,) losses of questions among passages."""
        passage_keys, positive_index = batch.passage_keys, batch.positive_index
        if self.in_batch_negatives:
            ranks = AllRanks(len(passages), passages.device)
            passages, passage_keys = ranks.gather(passages), ranks.gather(passage_keys)
            positive_index = positive_index + ranks.start
        known = partial(_in_pairs, known_positive_pairs(batch.known_positives, passage_keys), len(passages))
        likely = partial(_in_pairs, self._likely(batch, passage_keys), len(passages))

        def losses(dims: int, rows: slice) -> Tensor:
            sides, own = (questions[rows, :dims], passages[:, :dims]), positive_index[rows]
            positives, ignore = known(rows), likely(rows)
            if not self.in_batch_negatives:
                others = _of_others(batch.owner, rows)
                positives, ignore = positives & ~others, ignore | others
            if self.all_positives:
                return self._multi_positive(*sides, positives.scatter(1, own[:, None], True), ignore=ignore)
            return self._nll(*sides, own, ignore=positives | ignore)

        return lambda dims: _in_tiles(partial(losses, dims), len(questions), len(passages))

    def _to_questions(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Callable[[int], Tensor]:
        """By the number of dimensions, (B,) losses of the questions' positives among questions."""
        ranks = AllRanks(len(questions), questions.device)
        own = torch.arange(len(questions), device=questions.device) + ranks.start
        positives, questions = passages[batch.positive_index], ranks.gather(questions)
        # A question that the passage answers as well is no negative of it.
        known = gather_padded(batch.known_positives, ranks)
        pairs = known_positive_pairs(known, batch.passage_keys[batch.positive_index]).flip(1)
        pairs = pairs[pairs[:, 0].argsort(stable=True)]

        def losses(dims: int, rows: slice) -> Tensor:
            ignore = _in_pairs(pairs, len(questions), rows)
            return self._nll(positives[rows, :dims], questions[:, :dims], own[rows], ignore=ignore)

        return lambda dims: _in_tiles(partial(losses, dims), len(positives), len(questions))

    def _to_teacher(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Callable[[int], Tensor]:
        """By the number of dimensions, (B,) divergences from the teacher, over each question's own passages."""

        def losses(dims: int, rows: slice) -> Tensor:
            scores = batch.scores.expand(rows.stop - rows.start, -1)
            return distillation_kl(
                questions[rows, :dims],
                passages[:, :dims],
                scores.masked_fill(_of_others(batch.owner, rows), torch.nan),
                temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                similarity=self.similarity,
                reduction="none",
            )

        return lambda dims: _in_tiles(partial(losses, dims), len(questions), len(passages))

    def _likely(self, batch: BiEncoderBatch, passage_keys: Tensor) -> Tensor:
        """(M, 2) int64, in order, question and passage that a guide takes for another positive of it, wherever it is.

        Args:
            batch: Of which each question's own passages are looked at.
            passage_keys: (A, 2) int64, of the passages that it is compared with.
        """
        if self.guide_margin is None:
            return batch.owner.new_zeros(0, 2)
        found = likely_positives(batch.scores, batch.owner, batch.positive_index, self.guide_margin).nonzero()[:, 0]
        copies = known_positive_pairs(batch.passage_keys[found][:, None], passage_keys)
        return torch.stack([batch.owner[found[copies[:, 0]]], copies[:, 1]], dim=1)

    def _nll(self, *arguments: Tensor, ignore: Tensor) -> Tensor:
        return in_batch_nll(
            *arguments, ignore=ignore, temperature=self.temperature, similarity=self.similarity, reduction="none"
        )

    def _multi_positive(self, *arguments: Tensor, ignore: Tensor) -> Tensor:
        return multi_positive_nll(
            *arguments, ignore=ignore, temperature=self.temperature, similarity=self.similarity, reduction="none"
        )


def _of_others(owner: Tensor, rows: slice) -> Tensor:
    """(rows, P) bool, True for passages that stand in other rows."""
    return owner != torch.arange(rows.start, rows.stop, device=owner.device)[:, None]


def _in_pairs(pairs: Tensor, num_columns: int, rows: slice) -> Tensor:
    """(rows, columns) bool, True where the pairs of row and column, which are in order, have one."""
    mask = torch.zeros(rows.stop - rows.start, num_columns, dtype=torch.bool, device=pairs.device)
    start, end = torch.searchsorted(pairs[:, 0].contiguous(), torch.tensor([rows.start, rows.stop]).to(pairs))
    mask[pairs[start:end, 0] - rows.start, pairs[start:end, 1]] = True
    return mask


def _in_tiles(losses: Callable[[slice], Tensor], num_rows: int, num_columns: int) -> Tensor:
    """(num_rows,) losses, a few rows at a time."""
    size = max(1, TILE // max(1, num_columns))
    if num_rows <= size:
        return losses(slice(0, num_rows))
    tiles = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    return torch.cat([checkpoint(losses, tile, use_reentrant=False, preserve_rng_state=False) for tile in tiles])
