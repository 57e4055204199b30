"""Data loaders of a Trainer over DataPipes. A resumed run continues at the row where it stopped.

Neither Lightning's own restoring of loaders nor torchdata's StatefulDataLoader resumes a DataPipe where it stopped.
Here the trainer counts the position, as a row in the order of the epoch, and the pipe starts there when training
resumes. So the position does not depend on workers or on prefetching.
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
from text.models.torch_internals import get_worker_processes
from text.records import Example, TrainingBatch
from text.training.lightning_internals import count_trained_batches, is_last_batch
from text.training.saved_state import StateError, check_like

Collate = Callable[[Sequence[Example]], TrainingBatch]
GetPosition = Callable[[], tuple[int, int]]
_PREFETCHED_BATCHES = 2
_MAX_DEFAULT_WORKERS = 4


class DPRDataModule(LightningDataModule):
    """Data module with a DPRDataPipe for each stage.

    Args:
        collate: Turns a list of Examples into a batch.
        train: Training data. It is shuffled each epoch if it was built with ``train=True``.
        valid: Validation data, evaluated after each epoch. None trains without validation.
        test: Test data, evaluated at the end. None skips the test.
        train_collate: Collate function for training. The default is ``collate``.
        num_workers: Processes that read and tokenize. With 0, a thread of this process does it. None chooses 0 on a
            CPU, and on a GPU as ``choose_num_workers``.
    """

    def __init__(
        self,
        collate: Collate,
        *,
        train: DPRDataPipe,
        valid: DPRDataPipe | None = None,
        test: DPRDataPipe | None = None,
        train_collate: Collate | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.test = train, valid, test
        self.collate = collate
        self.train_collate = train_collate or collate
        self.num_workers = num_workers
        self._restored_epoch, self._restored_row = 0, 0

    def train_dataloader(self) -> _EpochLoader:
        """Return the loader of the training data, which starts at the resumed position."""
        return self._build_loader(self.train, self.train_collate, self._get_position)

    def val_dataloader(self) -> _EpochLoader | list[_EpochLoader]:
        """Return the loader of the validation data, or an empty list."""
        if self.valid is None:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks", category=UserWarning)
            return []
        return self._build_loader(self.valid, self.collate)

    def test_dataloader(self) -> _EpochLoader | list[_EpochLoader]:
        """Return the loader of the test data, or an empty list."""
        return [] if self.test is None else self._build_loader(self.test, self.collate)

    def state_dict(self) -> dict[str, int | str]:
        """Return the position of training (epoch and row), and the settings and data that must not change."""
        assert self.trainer is not None
        batch, is_last = count_trained_batches(self.trainer), is_last_batch(self.trainer)
        return {**self._get_identity(), **self.find_position(self.trainer.current_epoch, batch, is_last=is_last)}

    def find_position(self, epoch: int, batch: int, *, is_last: bool) -> dict[str, int]:
        """Return the epoch and the row of the next training batch.

        Args:
            epoch: The current epoch.
            batch: Number of batches of this epoch that were trained.
            is_last: All batches of the epoch were trained.
        """
        if is_last:
            return {"epoch": epoch + 1, "row": 0}
        return {"epoch": epoch, "row": self.train.count_rows_before(epoch, batch)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next training pass at the position of ``state_dict``.

        Raises:
            ArtifactError: For the reasons of ``check_state``.
        """
        assert self.trainer is not None
        self.check_state(state_dict, str(self.trainer.ckpt_path))
        self._restored_epoch, self._restored_row = state_dict["epoch"], state_dict["row"]
        # Lightning looks for the position in the loader, but the data module has it.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable", category=UserWarning)

    def check_state(self, state_dict: Mapping[str, Any], checkpoint: str) -> None:
        """Check that a run can resume from a checkpoint with this data. Only the test data may differ.

        Args:
            state_dict: The state of the data module in the checkpoint.
            checkpoint: The checkpoint, for the error message.

        Raises:
            ArtifactError: The order of training rows, the training data or the validation data differs, or a part of
                the state is missing or has the wrong type.
        """
        try:
            check_like(state_dict, {**self._get_identity(), "epoch": 0, "row": 0}, type(self).__qualname__)
        except StateError as error:
            raise ArtifactError(
                f"{checkpoint}: not a checkpoint of this library: {error} Give a checkpoint of a run."
            ) from None
        for name, ours in self._get_identity().items():
            theirs = state_dict[name]
            if ours != theirs:
                labels = {
                    "data": _describe_fingerprint("training", self.train),
                    "valid": _describe_fingerprint("validation", self.valid),
                }
                raise ArtifactError(
                    f"{checkpoint}: saved with other data: {labels.get(name, name)} was {theirs}, but now is {ours}. "
                    "Resume with the same data, or start a new run."
                )

    def teardown(self, stage: str) -> None:
        """Clear the resumed position, so that another fit starts from the first row."""
        if stage == "fit":
            self._restored_epoch, self._restored_row = 0, 0

    def _build_loader(self, pipe: DPRDataPipe, collate: Collate, *get_position: GetPosition) -> _EpochLoader:
        """Return a loader that suits the device of the trainer. Without a trainer, this is the CPU."""
        is_on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        num_gpus = self.trainer.num_devices if self.trainer is not None and is_on_gpu else 0
        num_workers = choose_num_workers(num_gpus) if self.num_workers is None else self.num_workers
        return _EpochLoader(pipe, collate, num_workers, *get_position, pin_memory=is_on_gpu)

    def _get_identity(self) -> dict[str, int | str]:
        """Return the values that determine the order of training rows, and the fingerprint of the validation data."""
        order = {"seed": self.train.seed, "batch_size": self.train.batch_size, "data": self.train.fingerprint}
        return {**order, "valid": self.valid.fingerprint if self.valid is not None else "none"}

    def _get_position(self) -> tuple[int, int]:
        """Return the epoch and the first row of a training pass that starts now."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return epoch, self._restored_row if epoch == self._restored_epoch else 0


def choose_num_workers(num_gpus: int) -> int:
    """Return the number of data workers of a process if the user names none.

    On a GPU, a thread that tokenizes would delay the thread that starts the GPU's work, so other processes tokenize.
    One CPU of each GPU is left to the training process.

    Args:
        num_gpus: GPUs of this machine that train. 0 means a CPU.
    """
    if not num_gpus:
        return 0
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MAX_DEFAULT_WORKERS, num_cpus // num_gpus - 1))


class _EpochLoader:
    """Loader whose passes yield one epoch of batches each, from the position at the start of the pass.

    Lightning copies pinned batches to a GPU without waiting.
    """

    def __init__(
        self,
        pipe: DPRDataPipe,
        collate: Collate,
        num_workers: int,
        get_position: GetPosition = lambda: (0, 0),
        *,
        pin_memory: bool = False,
    ) -> None:
        self.pipe = pipe
        self._collate = collate
        self._num_workers = num_workers
        self._get_position = get_position
        self._pin_memory = pin_memory
        self.workers: list[BaseProcess] = []
        """Data workers of the latest pass."""

    def __len__(self) -> int:
        return len(self.pipe)

    def __iter__(self) -> Iterator[TrainingBatch]:
        # This method is a generator, so the position is read only when the first batch is requested: Lightning starts
        # passes that it does not use, and starts one before it has restored the epoch.
        self.pipe.set_epoch(*self._get_position())
        batches = self.pipe.map(self._collate)
        if self._num_workers == 0:
            batches = prefetch(batches, _PREFETCHED_BATCHES)
        else:
            # The threads of a tokenizer do not survive the fork of a worker, and would compete for the CPUs.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_keep,
            pin_memory=self._pin_memory,
            # Without a generator of its own, each pass would draw from the global random state.
            generator=torch.Generator(),
            worker_init_fn=_leave_group,
        )
        iterator = iter(loader)
        self.workers = get_worker_processes(iterator)
        yield from iterator


def _describe_fingerprint(stage: str, pipe: DPRDataPipe | None) -> str:
    """Return a description of the fingerprint of a pipe's data, with its files."""
    if pipe is None:
        return f"the fingerprint of the {stage} data"
    return f"the fingerprint of the {stage} data ({', '.join(file.path for file in pipe.files)})"


def _keep(batch: Any) -> Any:
    """Return a batch unchanged. By default a DataLoader makes tensors of the lengths, which would go to the GPU."""
    return batch


def _leave_group(worker: int) -> None:
    """Leave the process group of the run, so that Ctrl-C does not reach the workers: training still needs them."""
    os.setpgrp()
