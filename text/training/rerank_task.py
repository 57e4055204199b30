"""Lightning module that trains and evaluates a cross-encoder. ``task_base.py`` has what it shares with other models.

Dimensions: B questions of this rank; P pairs of this rank.
"""

from __future__ import annotations

from torch import Tensor

from text.models.cross_encoder import score_in_batches
from text.records import CrossEncoderBatch
from text.training.rerank_objective import RerankObjective
from text.training.row_ranks import RowRanks
from text.training.task_base import TrainingTask

_EVALUATION_TOKENS = 1 << 15
"""Tokens per forward pass in evaluation. It affects memory, not metrics."""


class CrossEncoderTask(TrainingTask):
    """Lightning module that trains a cross-encoder on batches of questions with their own passages.

    See ``TrainingTask`` for the arguments.
    """

    objective: RerankObjective
    pool: RowRanks

    def build_objective(self) -> RerankObjective:
        """Return the contrastive loss without a teacher."""
        return RerankObjective()

    def compute_losses(self, batch: CrossEncoderBatch) -> Tensor:
        """Return the losses of the questions of a training batch, (B,)."""
        return self.objective(batch, self.model(batch.pairs))

    def evaluate(self, batch: CrossEncoderBatch) -> Tensor:
        """Return the losses of the questions of an evaluation batch, (B,), and add the batch to the pool."""
        logits = score_in_batches(self.model, batch.pairs, _EVALUATION_TOKENS)
        losses = self.objective(batch, logits)
        self.pool.add(batch, logits)
        return losses

    def build_pool(self) -> RowRanks:
        """Return an empty pool for an evaluation."""
        return RowRanks()
