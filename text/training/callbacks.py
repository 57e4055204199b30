"""What happens around a training step: speed shown, random state kept."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from text.records import BiEncoderBatch


class Throughput(Callback):
    """Shows questions trained per second, and the share of padding, in the progress bar.

    Neither is logged: ``metrics.csv`` holds only what the same run would give again.
    """

    def __init__(self) -> None:
        self._started, self._questions = 0.0, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._questions = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        self._questions += len(batch.positive_index)
        rate = self._questions / (time.perf_counter() - self._started)
        masks = (batch.questions.attention_mask, batch.passages.attention_mask)
        padding = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        pl_module.log("examples/s", rate, prog_bar=True, logger=False)
        pl_module.log("padding", padding, prog_bar=True, logger=False)


class RandomState(Callback):
    """Keeps the state of torch's random numbers in checkpoints, so that dropout resumes as it was.

    The state is put back at the first training step: whatever else draws random numbers while a
    run starts, such as building an encoder, has no part in it.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"].cpu())
            torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda"]])
            self._restored = None
