"""What happens around a training step: speed shown, random state kept."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from text.records import BiEncoderBatch
from text.training.distributed import AllRanks, this_rank


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
        self._questions += len(batch.positive_index) * trainer.world_size
        rate = self._questions / (time.perf_counter() - self._started)
        masks = (batch.questions.attention_mask, batch.passages.attention_mask)
        padding = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        pl_module.log("examples/s", rate, prog_bar=True, logger=False)
        pl_module.log("padding", padding, prog_bar=True, logger=False)


class RandomState(Callback):
    """Keeps the state of torch's random numbers in checkpoints, so that dropout resumes as it was.

    The state is put back at the first training step: whatever else draws random numbers while a
    run starts, such as building an encoder, has no part in it. Each rank has a state of its own.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def state_dict(self) -> dict[str, Any]:
        """Every rank must call this, as Lightning does."""
        if self._restored is not None:  # saved again before the first step
            return self._restored
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": _of_all_ranks(torch.get_rng_state()), "cuda": [_of_all_ranks(state) for state in cuda]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: BiEncoderBatch, batch_idx: int
    ) -> None:
        if self._restored is not None:
            torch.set_rng_state(_of_this_rank(self._restored["cpu"]))
            torch.cuda.set_rng_state_all([_of_this_rank(states) for states in self._restored["cuda"]])
            self._restored = None


def _of_all_ranks(state: Tensor) -> Tensor:
    """(bytes,) to (ranks, bytes)."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    return AllRanks(1, device).gather(state[None].to(device)).cpu()


def _of_this_rank(states: Tensor) -> Tensor:
    """Of fewer ranks than there are now, one serves several."""
    return states.cpu()[this_rank() % len(states)]
