"""A signal ends a run with a checkpoint from which it goes on as if nothing had been.

SIGTERM, SIGINT, SIGHUP and SIGUSR1 set a flag. A signal that is ignored stays ignored, as ``nohup`` wants it. After
each batch, of training or evaluation, all ranks agree whether any of them has the flag; then all save and stop at the
same step. A second signal of the same kind ends the process at once. A signal of another kind does so a second later,
since what stops a job may come from the terminal and from a parent process, too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from text.errors import InterruptedRun
from text.training.distributed import total
from text.training.lightning_internals import (
    is_last_batch,
    is_validation_next,
    log_epoch_metrics,
    log_step_metrics,
    restart_validation,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_ONE_ACT = 1.0
"""Seconds in which signals of different kinds count as one."""


class SaveOnSignal(Callback):
    """Saves and stops after the batch in which a signal came.

    Lightning sets handlers of its own before it calls the hooks below, and puts back all handlers, ours too, when
    fit, validate or test ends in whatever way.

    Args:
        path: Where to save, when training is under way.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._received: signal.Signals | None = None
        self._received_at = 0.0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # on_validation_start stops if a validation comes next, and on_train_epoch_end after the last batch: Lightning
        # does not count the next epoch if a checkpoint is saved before the last batch is counted.
        if not (is_validation_next(trainer) or is_last_batch(trainer)) and self._agreed(trainer, pl_module):
            log_step_metrics(trainer)
            self._save_and_stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The checkpoints of a validation after the last batch are saved after this hook.
        if not is_validation_next(trainer) and self._agreed(trainer, pl_module):
            log_epoch_metrics(trainer)
            self._save_and_stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()
        self._stop_evaluation(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._stop_evaluation(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()
        self._stop_evaluation(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._stop_evaluation(trainer, pl_module)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, signal.SIG_DFL if signum == self._received else self._receive)

    def _receive(self, signum: int, frame: Any) -> None:
        if self._received is None:
            self._received, self._received_at = signal.Signals(signum), time.monotonic()
            self._listen()
        elif time.monotonic() - self._received_at > _ONE_ACT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _agreed(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether any rank has received a signal."""
        has = self._received is not None or trainer.received_sigterm  # by Lightning, before it called us
        return bool(total(torch.tensor(float(has), device=pl_module.device)))

    def _stop_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._agreed(trainer, pl_module):
            return
        if trainer.sanity_checking or trainer.state.fn != "fit":
            raise InterruptedRun(f"stopped by {self._name()} outside of training; checkpoints are as they were")
        restart_validation(trainer)
        self._save_and_stop(trainer)

    def _save_and_stop(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        raise InterruptedRun(f"stopped by {self._name()} after step {trainer.global_step}; saved {self.path}")

    def _name(self) -> str:
        return self._received.name if self._received else "a signal to another rank"
