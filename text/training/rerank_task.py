"""Lightning module that trains and evaluates a cross-encoder. ``task_base.py`` has what it shares with other models.

Dimensions: B questions of this rank; P pairs of this rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from text.models import CrossEncoder
from text.models.cross_encoder import score_in_batches
from text.records import CrossEncoderBatch
from text.training.rerank_objective import RerankObjective
from text.training.row_ranks import RowRanks
from text.training.task_base import TrainingTask

_EVALUATION_TOKENS = 1 << 15
"""Tokens per forward pass in evaluation. It affects memory, not metrics."""


class CrossEncoderTask(TrainingTask):
    """Lightning module that trains a cross-encoder on batches of questions with their own passages.

    Args:
        model: The cross-encoder.
        objective: Loss to minimize. It is also reported during validation.
        learning_rate: See ``TrainingTask``, and for the arguments below.
        warmup_steps: Optimizer steps until the peak.
        schedule: Shape of the learning rate after the peak.
        weight_decay: Weight decay of all weights except biases and layer norms.
        set_names: Names of the data sets that training mixes.
    """

    def __init__(
        self,
        model: CrossEncoder,
        objective: RerankObjective | None = None,
        *,
        learning_rate: float = 2e-5,
        warmup_steps: int = 0,
        schedule: str = "linear",
        weight_decay: float = 0.0,
        set_names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            model,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            schedule=schedule,
            weight_decay=weight_decay,
            set_names=set_names,
        )
        self.objective = objective or RerankObjective()
        self.pool = self.build_pool()

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
