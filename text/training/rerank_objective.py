"""Training objective of a cross-encoder. ``text/losses.py`` computes the distillation losses.

Dimensions: B questions; P pairs; K pairs of the question with most pairs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from text.losses import kl_of_logits, likely_positives, margin_mse_of_logits
from text.records import CrossEncoderBatch
from text.training.distillation import check_teacher_settings, mix_losses


@dataclass(frozen=True, kw_only=True)
class RerankObjective:
    """Loss of each question of a batch.

    It is the negative log-likelihood of the positive among the passages of its own row, in nats (localized contrastive
    estimation, arXiv:2101.08751). A teacher's scores can replace a part of it.

    Args:
        guide_margin: Remove negatives that the guide scores above its score of the positive minus this margin, because
            they may be positives.
        distillation: Weight (0 to 1) of the distillation loss. A question needs two scores for it; for "margin_mse",
            one of them is the positive's. Other questions keep the contrastive loss.
        distillation_loss: "kl", the divergence from the softmax of the teacher's scores, or "margin_mse", the squared
            error of the margin between the positive and each other passage.
        teacher_temperature: Divides the teacher's scores in the distillation loss.

    Raises:
        ValueError: A number is out of range, or the distillation loss is unknown.
    """

    guide_margin: float | None = None
    distillation: float = 0.0
    distillation_loss: str = "kl"
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_teacher_settings(**asdict(self))

    def __call__(self, batch: CrossEncoderBatch, logits: Tensor) -> Tensor:
        """Return the loss of each question, (B,) float.

        Args:
            batch: Layout and scores of the pairs.
            logits: (P,) float. Score of each pair.
        """
        is_padding, own = batch.pair_index < 0, torch.zeros_like(batch.positive_index)
        scores = _arrange(logits, batch.pair_index)
        ignore = is_padding
        if self.guide_margin is not None:
            is_likely = likely_positives(batch.scores, batch.owner, batch.positive_index, self.guide_margin)
            ignore = ignore | _arrange(is_likely, batch.pair_index)
        # The positive of a question is in the first column.
        losses = F.cross_entropy(scores.masked_fill(ignore, -torch.inf), own, reduction="none")
        if not self.distillation:
            return losses
        teacher = _arrange(batch.scores, batch.pair_index).masked_fill(is_padding, torch.nan)
        is_known = ~teacher.isnan()
        if self.distillation_loss == "margin_mse":
            taught = margin_mse_of_logits(scores, own, teacher, teacher_temperature=self.teacher_temperature)
        else:
            taught = kl_of_logits(scores, teacher, teacher_temperature=self.teacher_temperature)
        return mix_losses(
            losses,
            taught,
            weight=self.distillation,
            num_scores=is_known.sum(dim=1),
            has_positive=is_known[:, 0],
            distillation_loss=self.distillation_loss,
        )


def _arrange(values: Tensor, pair_index: Tensor) -> Tensor:
    """Return the values of the pairs of each question, (P,) to (B, K). Padding gets any value."""
    return values[pair_index.clamp(min=0)]
