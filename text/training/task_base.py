"""Base class of the Lightning modules that train a model: optimizer, schedule, checkpoints and metrics.

A subclass computes the losses of a batch, and ranks the passages of an evaluation. Training and evaluation use the same
objective. Each rank has a share of a batch. Metrics are computed over the whole batch and are equal on all ranks. The
modules neither build models nor read data.

Dimensions: B questions of this rank.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from text.errors import NonFiniteLossError
from text.models.torch_internals import leave_unscaling_to_caller
from text.records import TrainingBatch
from text.training.batch_sums import BatchResults, BatchSums
from text.training.checkpoint_content import check_content
from text.training.data_module import DPRDataModule
from text.training.distributed import scale_for_backward
from text.training.epoch_metrics import EpochMetrics
from text.training.failures import describe_batch_rows
from text.training.host_values import log_on_host
from text.training.lightning_internals import should_log_step


class TrainingTask(LightningModule):
    """Lightning module that trains a model on batches of questions and their passages.

    AdamW has no weight decay on biases and layer norms. The learning rate rises linearly from 0 over ``warmup_steps``
    and then follows ``schedule``. By default it falls linearly to 0 at the last step (arXiv:2004.04906, 5.1).

    Args:
        model: The model to train.
        objective: Loss to minimize. It is also reported during validation. None means the default objective.
        learning_rate: Peak learning rate.
        warmup_steps: Optimizer steps until the peak.
        schedule: Shape of the learning rate after the peak: "linear", "cosine" or "constant".
        weight_decay: Weight decay of all weights except biases and layer norms. DPR uses 0.
        set_names: Names of the data sets that training mixes. With more than one, the loss of each set is logged.
    """

    pool: Any
    """Questions and passages of the current or latest evaluation, with their ranks."""

    def __init__(
        self,
        model: nn.Module,
        objective: Any = None,
        *,
        learning_rate: float = 2e-5,
        warmup_steps: int = 0,
        schedule: str = "linear",
        weight_decay: float = 0.0,
        set_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.objective = objective or self.build_objective()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.set_names = set_names
        self.epoch_metrics = EpochMetrics()
        """Metrics of the current training epoch."""
        self._saved_num_steps: int | None = None
        self._unread: tuple[int, BatchSums] | None = None  # set by training_step
        self.pool = self.build_pool()

    @abstractmethod
    def build_objective(self) -> Any:
        """Return the default objective."""

    @abstractmethod
    def compute_losses(self, batch: Any) -> Tensor:
        """Return the losses of the questions of a training batch, (B,)."""

    @abstractmethod
    def evaluate(self, batch: Any) -> Tensor:
        """Return the losses of the questions of an evaluation batch, (B,), and add the batch to the pool."""

    @abstractmethod
    def build_pool(self) -> Any:
        """Return an empty pool for an evaluation."""

    def training_step(self, batch: TrainingBatch, batch_index: int) -> Tensor:
        """Return the value that Lightning runs the backward pass on."""
        losses = self.compute_losses(batch)  # (B,)
        sums = BatchSums(losses, batch, self._num_sets)
        self._unread = batch_index, sums
        log_on_host(self, "learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return scale_for_backward(losses, sums.num_questions) * self._get_accumulation_factor(batch_index)

    def on_after_backward(self) -> None:
        """Check and log the loss of the batch. Only here the host waits for it: the backward pass is under way.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. No optimizer step has used its gradients.
        """
        assert self._unread is not None, "Lightning calls training_step first"
        batch_index, sums = self._unread
        self._unread = None
        results = sums.read()
        self._check_finite(results.loss, "training", batch_index)
        self.log("train_loss_step", results.loss, prog_bar=True)
        self._add_to_epoch(results)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm over all batches of the step and all ranks, before clipping."""
        if should_log_step(self.trainer):
            self.log("gradient_norm", compute_gradient_norm(optimizer))

    def on_train_epoch_start(self) -> None:
        """Clear the metrics of the previous epoch."""
        self.epoch_metrics.clear()

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch."""
        for name, value in self.epoch_metrics.compute().items():
            self.log(name, value, prog_bar=name == "train_loss_epoch", batch_size=1)
        self.epoch_metrics.clear()

    def on_validation_epoch_start(self) -> None:
        """Start a new pool."""
        self.pool = self.build_pool()

    def validation_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Log the loss of a batch, and add the batch to the pool."""
        self._evaluate(batch, batch_index, "valid")

    def on_validation_epoch_end(self) -> None:
        """Log the ranking metrics of the pool."""
        self._log_pool("valid")

    def on_test_epoch_start(self) -> None:
        """Start a new pool."""
        self.pool = self.build_pool()

    def test_step(self, batch: TrainingBatch, batch_index: int) -> None:
        """Log the loss of a batch, and add the batch to the pool."""
        self._evaluate(batch, batch_index, "test")

    def on_test_epoch_end(self) -> None:
        """Log the ranking metrics of the pool."""
        self._log_pool("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW, and a schedule that changes the learning rate at each step."""
        optimizer = self._build_optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: compute_lr_factor(self.schedule, step, self.warmup_steps, self._count_steps())
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set the learning rate by the schedule of this run. The checkpoint's schedule may have had fewer steps."""
        scheduler: Any = self.lr_schedulers()
        groups = scheduler.optimizer.param_groups
        for group, peak, share in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = peak * share(scheduler.last_epoch)
        if self._saved_num_steps not in (None, self._count_steps()):
            self.print(
                f"note: the learning rate schedule now has {self._count_steps()} steps; before it had "
                f"{self._saved_num_steps}. Training resumes after step {self.global_step} with a learning rate of "
                f"{groups[0]['lr']:g}."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metrics of the epoch so far, and the number of steps of the schedule, to a checkpoint."""
        checkpoint["epoch_figures"] = self.epoch_metrics.state_dict()
        checkpoint["num_steps"] = self._count_steps()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the whole checkpoint. Lightning calls this before it uses any part of the checkpoint.

        Raises:
            ArtifactError: For the reasons of ``check_content``.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.check_checkpoint(checkpoint, str(self.trainer.ckpt_path), self.trainer, data)
        self.epoch_metrics.load_state_dict(checkpoint["epoch_figures"])
        self._saved_num_steps = checkpoint["num_steps"]

    def check_checkpoint(
        self, content: dict[str, Any], path: str, trainer: Trainer, data: DPRDataModule | None
    ) -> None:
        """Check the content of a checkpoint (``check_content``). The trainer need not have started."""
        check_content(content, path, trainer=trainer, task=self, optimizer=self._build_optimizer(), data=data)

    def _build_optimizer(self) -> torch.optim.AdamW:
        # torch 2.3 has no fused AdamW for CPUs.
        fused = torch.__version__ >= "2.4" or self.device.type == "cuda"
        optimizer = torch.optim.AdamW(self._build_parameter_groups(), lr=self.learning_rate, fused=fused)
        leave_unscaling_to_caller(optimizer)
        return optimizer

    def _count_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        return int(self.trainer.estimated_stepping_batches)

    def _get_accumulation_factor(self, batch_index: int) -> float:
        """Return the factor that corrects the loss of an epoch's last optimizer step, which may have fewer batches.

        Lightning divides the loss by ``accumulate_grad_batches`` in every step.
        """
        size, num_batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        first_of_step = batch_index - batch_index % size
        return size / min(size, num_batches - first_of_step)

    @property
    def _num_sets(self) -> int:
        """Number of data sets whose losses are logged separately."""
        return len(self.set_names) if len(self.set_names) > 1 else 0

    def _add_to_epoch(self, results: BatchResults) -> None:
        """Add the results of a batch to the metrics of the epoch."""
        metrics = self.epoch_metrics
        metrics.add_mean("train_loss_epoch", results.loss, results.num_questions)
        for name, (loss, size) in zip(self.set_names, results.sets, strict=False):
            if size:
                metrics.add_mean(f"train_loss/{name}", loss, size)
                metrics.add_sum(f"train_questions/{name}", float(size))
        for side, counts in results.texts.items():
            metrics.add_mean(f"train_{side}_truncated", counts.num_truncated / max(1, counts.size), counts.size)
            metrics.add_sum(f"train_{side}_left_out", counts.num_left_out)

    def _check_finite(self, loss: Tensor, stage: str, batch_index: int) -> None:
        if not loss.isfinite():
            raise NonFiniteLossError(
                f"step {self.global_step}, {stage} batch {batch_index}: the loss is {loss.item()} "
                f"(rows {describe_batch_rows(self.trainer, stage, batch_index)}). The weights were not updated. "
                "Use a smaller --learning_rate."
            )

    def _evaluate(self, batch: TrainingBatch, batch_index: int, stage: str) -> None:
        results = BatchSums(self.evaluate(batch), batch).read()
        self._check_finite(results.loss, stage, batch_index)
        # batch_size weighs each batch by its questions, so a short last batch counts less.
        self.log(f"{stage}_loss", results.loss, on_epoch=True, prog_bar=True, batch_size=results.num_questions)

    def _log_pool(self, stage: str) -> None:
        for name, value in self.pool.compute_metrics(self.device).items():
            log_on_host(self, f"{stage}_{name}", value, prog_bar=name == "mrr@10")
        log_on_host(self, f"{stage}_pool_passages", self.pool.num_passages)

    def _build_parameter_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups with and without weight decay. Frozen parameters are in neither."""
        decayed, exempt = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                # Biases and the weights of norms have one dimension in every library.
                (exempt if name.endswith("bias") or parameter.ndim < 2 else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ]


def compute_gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the gradient norm over all parameters, which ``gradient_clip_val`` limits."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms))


def compute_lr_factor(schedule: str, step: int, warmup_steps: int, num_steps: int) -> float:
    """Return the learning rate at a 0-based optimizer step, as a fraction of the peak.

    It rises linearly from 0 to 1 at ``warmup_steps``. Then it falls to 0 at ``num_steps``, linearly or along half a
    cosine (arXiv:1608.03983), or stays at 1 ("constant").
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}[schedule]
