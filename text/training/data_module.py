"""DPRDataModule: DataPipes to the loaders of a Trainer, with a position that survives a restart.

Neither Lightning's restoring of loaders nor torchdata's StatefulDataLoader resumes a DataPipe
where it stopped. Here the position is counted by the trainer, in rows of the epoch's order, and
goes back to the pipe when training resumes: it does not depend on workers or prefetching.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from text.datasets import DPRDataPipe, prefetch
from text.errors import ArtifactError
from text.records import BiEncoderBatch, Example

_PREFETCHED_BATCHES = 2


class DPRDataModule(LightningDataModule):
    """Loaders over pipes that the caller makes.

    Args:
        collate: A list of Examples to a BiEncoderBatch.
        train: Shuffled anew each epoch if it is made with ``train=True``.
        valid: Evaluated after each epoch.
        test: Evaluated at the end.
        num_workers: Processes that read and tokenize; with 0 a thread of this process does.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Example]], BiEncoderBatch],
        *,
        train: DPRDataPipe,
        valid: DPRDataPipe,
        test: DPRDataPipe,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self._loaders = {
            stage: _EpochLoader(pipe, collate, num_workers)
            for stage, pipe in (("train", train), ("valid", valid), ("test", test))
        }

    def train_dataloader(self) -> _EpochLoader:
        return self._loaders["train"]

    def val_dataloader(self) -> _EpochLoader:
        return self._loaders["valid"]

    def test_dataloader(self) -> _EpochLoader:
        return self._loaders["test"]

    def state_dict(self) -> dict[str, int]:
        """Where training stands: seed, epoch, and rows of the epoch that were trained on."""
        assert self.trainer is not None
        pipe = self._loaders["train"].pipe
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch, row = self.trainer.current_epoch, progress.current.processed * pipe.batch_size
        if progress.is_last_batch:
            epoch, row = epoch + 1, 0
        return {"seed": pipe.seed, "batch_size": pipe.batch_size, "epoch": epoch, "row": row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the next pass of training start where ``state_dict`` was taken.

        Raises:
            ArtifactError: The checkpoint's order of rows is not that of this run.
        """
        loader = self._loaders["train"]
        for name in ("seed", "batch_size"):
            ours, theirs = getattr(loader.pipe, name), state_dict[name]
            if ours != theirs:
                raise ArtifactError(f"checkpoint: {name} is {theirs}, this run has {ours}; expected the same")
        loader.start_at(state_dict["epoch"], state_dict["row"])


class _EpochLoader:
    """Each pass gives one epoch of batches, and the next pass the next epoch."""

    def __init__(
        self, pipe: DPRDataPipe, collate: Callable[[Sequence[Example]], BiEncoderBatch], num_workers: int
    ) -> None:
        self.pipe = pipe
        self._collate = collate
        self._num_workers = num_workers
        self._epoch, self._start_row = 0, 0

    def start_at(self, epoch: int, row: int) -> None:
        self._epoch, self._start_row = epoch, row

    def __len__(self) -> int:
        return len(self.pipe)

    def __iter__(self) -> Iterator[BiEncoderBatch]:
        self.pipe.set_epoch(self._epoch, self._start_row)
        self._epoch, self._start_row = self._epoch + 1, 0
        batches = self.pipe.map(self._collate)
        if self._num_workers == 0:
            batches = prefetch(batches, _PREFETCHED_BATCHES)
        else:
            # Workers are forked: a tokenizer's own threads do not survive that, and would be too many.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: else each pass would draw from the global random state.
            generator=torch.Generator(),
        )
        return iter(loader)
