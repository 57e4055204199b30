"""DPRDataModule: DataPipes to the loaders of a Trainer, with a position that survives a restart.

Neither Lightning's restoring of loaders nor torchdata's StatefulDataLoader resumes a DataPipe
where it stopped. Here the position is counted by the trainer, in rows of the epoch's order, and
goes back to the pipe when training resumes: it does not depend on workers or prefetching.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from text.datasets import DPRDataPipe, prefetch
from text.errors import ArtifactError
from text.models.torch_internals import worker_processes
from text.records import BiEncoderBatch, Example
from text.training.lightning_internals import count_trained_batches, is_last_batch
from text.training.saved_state import StateError, check_like

_PREFETCHED_BATCHES = 2


class DPRDataModule(LightningDataModule):
    """Loaders over pipes that the caller makes.

    Args:
        collate: A list of Examples to a BiEncoderBatch.
        train: Shuffled anew each epoch if it is made with ``train=True``.
        valid: Evaluated after each epoch. None trains without validation.
        test: Evaluated at the end. None leaves the test out.
        train_collate: The same for training, where that is another.
        num_workers: Processes that read and tokenize; with 0 a thread of this process does.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Example]], BiEncoderBatch],
        *,
        train: DPRDataPipe,
        valid: DPRDataPipe | None = None,
        test: DPRDataPipe | None = None,
        train_collate: Callable[[Sequence[Example]], BiEncoderBatch] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.test = train, valid, test
        self.collate = collate
        self.train_collate = train_collate or collate
        self.num_workers = num_workers
        self._restored_epoch, self._restored_row = 0, 0

    def train_dataloader(self) -> _EpochLoader:
        return _EpochLoader(self.train, self.train_collate, self.num_workers, self._position)

    def val_dataloader(self) -> _EpochLoader | list[_EpochLoader]:
        if self.valid is None:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks", category=UserWarning)
            return []
        return _EpochLoader(self.valid, self.collate, self.num_workers)

    def test_dataloader(self) -> _EpochLoader | list[_EpochLoader]:
        return [] if self.test is None else _EpochLoader(self.test, self.collate, self.num_workers)

    def state_dict(self) -> dict[str, int | str]:
        """Return the position of training: epoch and rows trained on, with all that must stay the same."""
        assert self.trainer is not None
        batch, is_last = count_trained_batches(self.trainer), is_last_batch(self.trainer)
        return {**self._identity(), **self.find_position(self.trainer.current_epoch, batch, is_last=is_last)}

    def find_position(self, epoch: int, batch: int, *, is_last: bool) -> dict[str, int]:
        """Return the epoch and the row of the next batch of training.

        Args:
            epoch: The epoch that is trained.
            batch: Batches of it that were trained on.
            is_last: They are all batches of the epoch.
        """
        if is_last:
            return {"epoch": epoch + 1, "row": 0}
        return {"epoch": epoch, "row": self.train.rows_before(epoch, batch)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the next pass of training start where ``state_dict`` was taken.

        Raises:
            ArtifactError: As ``check_state``.
        """
        assert self.trainer is not None
        self.check_state(state_dict, str(self.trainer.ckpt_path))
        self._restored_epoch, self._restored_row = state_dict["epoch"], state_dict["row"]
        # Lightning looks for the position in the loader; here it is in the data module.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable", category=UserWarning)

    def check_state(self, state_dict: Mapping[str, Any], checkpoint: str) -> None:
        """Check that a run can go on from a checkpoint with this data. The test data may be other data.

        Args:
            state_dict: The state of the data module in the checkpoint.
            checkpoint: The checkpoint, for the error.

        Raises:
            ArtifactError: The order of training rows, the training data or the validation data differs, or a part of
                the state is missing or of another type.
        """
        try:
            check_like(state_dict, {**self._identity(), "epoch": 0, "row": 0}, type(self).__qualname__)
        except StateError as error:
            raise ArtifactError(f"{checkpoint}: not a checkpoint of this library: {error}") from None
        for name, ours in self._identity().items():
            theirs = state_dict[name]
            if ours != theirs:
                what = {"data": _describe("training", self.train), "valid": _describe("validation", self.valid)}
                raise ArtifactError(
                    f"{checkpoint}: saved with other data: {what.get(name, name)} was {theirs}, and is {ours}. "
                    "Resume with the same data, or start a new run."
                )

    def teardown(self, stage: str) -> None:
        """Forget the position that a finished run was resumed from."""
        if stage == "fit":
            self._restored_epoch, self._restored_row = 0, 0

    def _identity(self) -> dict[str, int | str]:
        """Return all that decides the order of training rows, and the fingerprint of the validation data."""
        order = {"seed": self.train.seed, "batch_size": self.train.batch_size, "data": self.train.fingerprint}
        return {**order, "valid": self.valid.fingerprint if self.valid is not None else "none"}

    def _position(self) -> tuple[int, int]:
        """Epoch and first row of a pass of training that starts now."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return epoch, self._restored_row if epoch == self._restored_epoch else 0


class _EpochLoader:
    """Each pass gives one epoch of batches, from the position that holds when the pass begins."""

    def __init__(
        self,
        pipe: DPRDataPipe,
        collate: Callable[[Sequence[Example]], BiEncoderBatch],
        num_workers: int,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.pipe = pipe
        self._collate = collate
        self._num_workers = num_workers
        self._position = position
        self.workers: list[BaseProcess] = []
        """Data workers of the latest pass."""

    def __len__(self) -> int:
        return len(self.pipe)

    def __iter__(self) -> Iterator[BiEncoderBatch]:
        # A generator, so that the position is asked for when the first batch is: Lightning begins passes
        # that it does not use, and begins one before it has restored the epoch.
        self.pipe.set_epoch(*self._position())
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
            # Its own generator: else each pass would draw from the global random state.
            generator=torch.Generator(),
            worker_init_fn=_leave_group,
        )
        iterator = iter(loader)
        self.workers = worker_processes(iterator)
        yield from iterator


def _describe(stage: str, pipe: DPRDataPipe | None) -> str:
    """Return words for the fingerprint of a pipe's data."""
    if pipe is None:
        return f"the fingerprint of the {stage} data"
    return f"the fingerprint of the {stage} data ({', '.join(file.path for file in pipe.files)})"


def _leave_group(worker: int) -> None:
    """A signal to a run's process group, as Ctrl-C is, goes to the process that trains, which needs its workers."""
    os.setpgrp()
