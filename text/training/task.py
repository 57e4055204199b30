"""BiEncoderTask: what pytorch-lightning does with a BiEncoder.

Training and evaluation call the same loss with the same temperature. The task neither builds
encoders nor knows where batches come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from text.errors import NonFiniteLossError
from text.losses import in_batch_nll
from text.models import BiEncoder
from text.records import BiEncoderBatch, TokenBatch
from text.training.pool import PassagePool

_EVALUATED_TOGETHER = 128
"""Texts per forward pass in evaluation, as DPR's ``val_av_rank_bsz``; changes memory, not figures."""


class BiEncoderTask(LightningModule):
    """Trains a BiEncoder on batches of questions and passages.

    AdamW without decay on biases and layer norms; the learning rate rises linearly from 0 over
    ``warmup_steps`` and falls linearly to 0 at the last step of the run (arXiv:2004.04906, 5.1).

    Args:
        model: The two encoders.
        learning_rate: Peak.
        warmup_steps: Optimizer steps until the peak.
        weight_decay: On weights that are neither bias nor layer norm; DPR uses 0.
        temperature: Divides the logits, in evaluation too.
        similarity: "dot" or "cosine".
        set_names: Names of the data sets that training mixes; with more than one, each one's loss is logged.
    """

    def __init__(
        self,
        model: BiEncoder,
        *,
        learning_rate: float = 2e-5,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        temperature: float = 1.0,
        similarity: str = "dot",
        set_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        self.temperature = temperature
        self.similarity = similarity
        self.set_names = set_names
        self._pool = PassagePool(similarity)

    def training_step(self, batch: BiEncoderBatch, batch_index: int) -> Tensor:
        losses = self._losses(batch, *self.model(batch.questions, batch.passages))  # (B,)
        loss = losses.mean()
        self._check_finite(loss, "training", batch_index)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(losses))
        self._log_sets(losses.detach(), batch.sources)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        for side, tokens in (("questions", batch.questions), ("passages", batch.passages)):
            share = tokens.truncated.float().mean()
            self.log(f"train_{side}_truncated", share, on_step=False, on_epoch=True, batch_size=len(tokens.truncated))
            left_out = float(batch.counts[f"{side} left out, no tokens"])
            self.log(f"train_{side}_left_out", left_out, on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def on_validation_epoch_start(self) -> None:
        self._pool = PassagePool(self.similarity)

    def validation_step(self, batch: BiEncoderBatch, batch_index: int) -> None:
        self._evaluate(batch, batch_index, "valid")

    def on_validation_epoch_end(self) -> None:
        self._log_pool("valid")

    def on_test_epoch_start(self) -> None:
        self._pool = PassagePool(self.similarity)

    def test_step(self, batch: BiEncoderBatch, batch_index: int) -> None:
        self._evaluate(batch, batch_index, "test")

    def on_test_epoch_end(self) -> None:
        self._log_pool("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self._parameter_groups(), lr=self.learning_rate, fused=True)
        # Fused, it could undo float16's scale of the loss itself, after which gradients could not be clipped.
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
        num_steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: linear_schedule(step, self.warmup_steps, int(num_steps))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _log_sets(self, losses: Tensor, sources: Tensor) -> None:
        """Loss and number of questions of each data set, over the epoch, where there are several."""
        for source in sources.unique().tolist() if len(self.set_names) > 1 else ():
            name, of_set = self.set_names[source], losses[sources == source]
            size = len(of_set)
            self.log(f"train_loss/{name}", of_set.mean(), on_step=False, on_epoch=True, batch_size=size)
            self.log(f"train_questions/{name}", float(size), on_step=False, on_epoch=True, reduce_fx="sum")

    def _losses(self, batch: BiEncoderBatch, questions: Tensor, passages: Tensor) -> Tensor:
        return in_batch_nll(
            questions,
            passages,
            batch.positive_index,
            ignore=batch.ignore,
            temperature=self.temperature,
            similarity=self.similarity,
            reduction="none",
        )

    def _check_finite(self, loss: Tensor, stage: str, batch_index: int) -> None:
        if not loss.isfinite():
            raise NonFiniteLossError(
                f"step {self.global_step}, {stage} batch {batch_index}: loss is {loss.item()}; "
                "expected a finite number, no update was made: try a smaller learning_rate"
            )

    def _evaluate(self, batch: BiEncoderBatch, batch_index: int, stage: str) -> None:
        questions, passages = (
            torch.cat([encoder(ids, mask) for ids, mask in _chunks(tokens)])
            for encoder, tokens in (
                (self.model.question_encoder, batch.questions),
                (self.model.passage_encoder, batch.passages),
            )
        )
        loss = self._losses(batch, questions, passages).mean()
        self._check_finite(loss, stage, batch_index)
        # The mean over questions, not over batches: a short last batch weighs what it holds.
        self.log(f"{stage}_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.positive_index))
        self._pool.add(batch, questions, passages)

    def _log_pool(self, stage: str) -> None:
        for name, value in self._pool.metrics(self.device).items():
            self.log(f"{stage}_{name}", value, prog_bar=name == "mrr@10")
        self.log(f"{stage}_pool_passages", float(self._pool.num_passages))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Biases and layer norms apart, without decay; what is frozen, nowhere."""
        norms = {id(p) for module in self.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
        decayed, exempt = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                (exempt if name.endswith("bias") or id(parameter) in norms else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ]


def _chunks(tokens: TokenBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask of a few texts at a time: an evaluation brings many more passages than a training step."""
    return zip(
        tokens.input_ids.split(_EVALUATED_TOGETHER), tokens.attention_mask.split(_EVALUATED_TOGETHER), strict=True
    )


def linear_schedule(step: int, warmup_steps: int, num_steps: int) -> float:
    """Share of the peak learning rate at a 0-based optimizer step.

    From 0 up to 1 at ``warmup_steps``, down to 0 at ``num_steps``.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))
