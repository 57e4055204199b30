"""Errors that end a step, with the rows, shapes and workers of the run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed

from text.errors import NonFiniteLossError, is_out_of_memory
from text.records import BiEncoderBatch
from text.training.saved_state import StateError, check_like, find_state

MOST_SKIPPED = 20
"""Steps in a row whose gradients float16 cannot hold; with each, the scale of the loss is halved."""


class StepFailures(Callback):
    """Counts steps skipped under float16, also in checkpoints. Says what a step was doing that ended the run."""

    def __init__(self) -> None:
        self._doing, self._scale = "before the first batch", 0.0
        self._skipped, self._skipped_in_a_row = 0, 0
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def check_states(self, states: Mapping[str, Any]) -> None:
        """Check the counts in a checkpoint.

        Raises:
            StateError: They are missing or none.
        """
        state, key = find_state(states, self.state_key)
        check_like(state, self.state_dict(), key)
        if state["skipped_in_a_row"] > state["skipped"]:
            raise StateError(f"{key}.skipped_in_a_row: {state['skipped_in_a_row']} of {state['skipped']}.")

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self._skipped, "skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._skipped, self._skipped_in_a_row = state_dict["skipped"], state_dict["skipped_in_a_row"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        self._remember(trainer, "training", batch, batch_idx)
        self._scale = _scale(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._remember(trainer, "valid", batch, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._remember(trainer, "test", batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        """Gradients are those of all ranks: these count alike.

        Raises:
            NonFiniteLossError: Too many steps in a row were skipped.
        """
        if not _scale(trainer):
            return
        is_skipped = _scale(trainer) < self._scale
        self._skipped += is_skipped
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if is_skipped else 0
        pl_module.log("skipped_steps", float(self._skipped))
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise NonFiniteLossError(
                f"step {trainer.global_step}: the gradients of {MOST_SKIPPED} steps in a row are NaN or infinite in "
                "float16, these updates were skipped; expected finite ones: try bf16-mixed, or a smaller learning_rate"
            )

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors of the block into errors that say which batch failed and why.

        Raises:
            MemoryError: Of the device or the host; with the shapes of the batch.
            ChildProcessError: A data worker died.
            ConnectionError: Another process of the run ended.
        """
        try:
            yield
        except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
            message = str(error)
            if is_out_of_memory(error):
                peak = f" after {torch.cuda.max_memory_allocated()} bytes" if torch.cuda.is_initialized() else ""
                raise MemoryError(
                    f"{self._doing}: out of memory{peak}. Checkpoints are intact: use a smaller --batch_size, or "
                    "--chunk_tokens."
                ) from error
            # Whoever reads from a worker that has died may only find a broken connection.
            dead = self._dead_worker()
            if "DataLoader worker" in message or (dead and isinstance(error, ConnectionError | EOFError)):
                raise ChildProcessError(
                    f"{self._doing}: {dead or 'a data worker'} died. "
                    "It probably ran out of memory: use fewer --num_workers."
                ) from error
            if _has_lost_peer(error):
                raise ConnectionError(
                    f"{self._doing}: another process of the run has ended. "
                    "See what it printed, and start all processes again with --resume."
                ) from error
            raise

    def _remember(self, trainer: Trainer, stage: str, batch: BiEncoderBatch, batch_index: int) -> None:
        texts = (tuple(tokens.input_ids.shape) for tokens in (batch.questions, batch.passages))
        shapes = ", ".join(f"{name} {shape}" for name, shape in zip(("questions", "passages"), texts, strict=True))
        self._doing = f"step {trainer.global_step}, {stage} batch {batch_index} with {shapes}"

    def _dead_worker(self) -> str:
        """The first that did not end of itself; empty if there is none."""
        if self._trainer is None:  # the processes of the run have not met
            return ""
        for loader in (self._trainer.train_dataloader, self._trainer.val_dataloaders, self._trainer.test_dataloaders):
            for number, worker in enumerate(getattr(loader, "workers", ())):
                if worker.exitcode:
                    return f"data worker {number} (process {worker.pid}, exit code {worker.exitcode})"
        return ""


def rows_of_batch(trainer: Trainer, stage: str, batch_index: int) -> str:
    """Return the places of a batch's rows as ``path:line,line``; "" without a DPRDataModule."""
    pipes = {"training": "train", "valid": "valid", "test": "test"}
    pipe = getattr(getattr(trainer, "datamodule", None), pipes[stage], None)
    lines: dict[str, list[str]] = {}
    for path, line in pipe.lines(trainer.current_epoch if stage == "training" else 0, batch_index) if pipe else ():
        lines.setdefault(path, []).append(str(line))
    return " ".join(f"{path}:{','.join(numbers)}" for path, numbers in lines.items())


def _has_lost_peer(error: Exception) -> bool:
    """Return whether an error comes from an exchange with a process that has ended. gloo has no class for it."""
    has_no_answer = re.search("by peer|broken pipe|timed out", str(error), re.IGNORECASE) is not None
    return isinstance(error, distributed.DistError) or ("gloo" in str(error) and has_no_answer)


def _scale(trainer: Trainer) -> float:
    """float16's scale of the loss; 0 where there is none."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler.get_scale() if scaler is not None else 0.0
