"""Errors of a training step, with the batch, its rows, its shapes and the data worker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed

from text.errors import NonFiniteLossError, is_out_of_memory
from text.records import TrainingBatch
from text.training.host_values import log_on_host
from text.training.saved_state import StateError, check_like, find_state

MAX_SKIPPED_STEPS = 20
"""Most consecutive steps that float16 training skips because gradients overflow. Each one halves the loss scale."""


class StepFailures(Callback):
    """Callback that counts the steps skipped in float16 training, and adds the batch to errors of a step."""

    def __init__(self) -> None:
        self._activity = "before the first batch"
        self._advice = "--chunk_tokens"
        self._scale: float | None = None
        self._skipped, self._skipped_in_a_row = 0, 0
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the trainer, whose loaders know the data workers."""
        self._trainer = trainer

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the counts in a checkpoint.

        Raises:
            StateError: A count is missing or invalid.
        """
        state, key = find_state(states, self.state_key)
        check_like(state, self.state_dict(), key)
        if state["skipped_in_a_row"] > state["skipped"]:
            raise StateError(
                f"{key}.skipped_in_a_row: {state['skipped_in_a_row']} is above skipped {state['skipped']}."
            )

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"skipped": self._skipped, "skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Load the counts."""
        self._skipped, self._skipped_in_a_row = state_dict["skipped"], state_dict["skipped_in_a_row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the loss scale of an earlier training."""
        self._scale = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Remember the batch, and the loss scale at the start of training."""
        self._remember(trainer, "training", batch, batch_idx)
        if self._scale is None:
            self._scale = _get_loss_scale(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the batch."""
        self._remember(trainer, "valid", batch, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the batch."""
        self._remember(trainer, "test", batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Count skipped steps of float16 training. Ranks share gradients, so all ranks have the same count.

        Raises:
            NonFiniteLossError: ``MAX_SKIPPED_STEPS`` consecutive steps were skipped.
        """
        if not self._scale:
            return
        before, self._scale = self._scale, _get_loss_scale(trainer)
        is_skipped = self._scale < before
        self._skipped += is_skipped
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if is_skipped else 0
        log_on_host(pl_module, "skipped_steps", self._skipped)
        if self._skipped_in_a_row == MAX_SKIPPED_STEPS:
            raise NonFiniteLossError(
                f"step {trainer.global_step}: the gradients of the last {MAX_SKIPPED_STEPS} steps overflow in float16. "
                "These updates were skipped. Use --precision=bf16-mixed, or a smaller --learning_rate."
            )

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate errors of the block into errors that name the batch and the cause.

        Raises:
            MemoryError: The device or the host is out of memory. The message has the shapes of the batch.
            ChildProcessError: A data worker died.
            ConnectionError: Another process of the run ended.
        """
        try:
            yield
        except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
            message = str(error)
            if is_out_of_memory(error):
                peak = f" (peak {torch.cuda.max_memory_allocated()} bytes)" if torch.cuda.is_initialized() else ""
                raise MemoryError(
                    f"{self._activity}: out of memory{peak}. Checkpoints are intact. Use a smaller --batch_size, or "
                    f"{self._advice}."
                ) from error
            # Reading from a dead worker may raise only a connection error.
            dead = self._find_dead_worker()
            if "DataLoader worker" in message or (dead and isinstance(error, ConnectionError | EOFError)):
                raise ChildProcessError(
                    f"{self._activity}: {dead or 'a data worker'} died. "
                    "It probably ran out of memory. Use fewer --num_workers."
                ) from error
            if _has_lost_peer(error):
                raise ConnectionError(
                    f"{self._activity}: another process of the run has ended. "
                    "See the output of that process, and start all processes again with --resume."
                ) from error
            raise

    def _remember(self, trainer: Trainer, stage: str, batch: TrainingBatch, batch_index: int) -> None:
        self._advice = "--chunk_tokens" if "passages" in batch.texts else "--pair_max_length"
        shapes = ", ".join(f"{name} {tuple(tokens.input_ids.shape)}" for name, tokens in batch.texts.items())
        self._activity = f"step {trainer.global_step}, {stage} batch {batch_index} with {shapes}"

    def _find_dead_worker(self) -> str:
        """Return a description of the first data worker that failed, or "" if there is none."""
        if self._trainer is None:  # setup has not been called
            return ""
        for loader in (self._trainer.train_dataloader, self._trainer.val_dataloaders, self._trainer.test_dataloaders):
            for number, worker in enumerate(getattr(loader, "workers", ())):
                if worker.exitcode:
                    return f"data worker {number} (process {worker.pid}, exit code {worker.exitcode})"
        return ""


def describe_batch_rows(trainer: Trainer, stage: str, batch_index: int) -> str:
    """Return the rows of a batch as ``path:line,line``, or "" without a DPRDataModule."""
    pipes = {"training": "train", "valid": "valid", "test": "test"}
    pipe = getattr(getattr(trainer, "datamodule", None), pipes[stage], None)
    lines: dict[str, list[str]] = {}
    for path, line in pipe.find_lines(trainer.current_epoch if stage == "training" else 0, batch_index) if pipe else ():
        lines.setdefault(path, []).append(str(line))
    return " ".join(f"{path}:{','.join(numbers)}" for path, numbers in lines.items())


def _has_lost_peer(error: Exception) -> bool:
    """Return whether an error was caused by another rank that has ended. gloo has no error class for this."""
    is_broken = re.search("by peer|broken pipe|timed out", str(error), re.IGNORECASE) is not None
    return isinstance(error, distributed.DistError) or ("gloo" in str(error) and is_broken)


def _get_loss_scale(trainer: Trainer) -> float:
    """Return the loss scale of float16 training, or 0 in other precisions."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler.get_scale() if scaler is not None else 0.0
