"""Save a checkpoint and stop when a signal arrives. The resumed run gives the same results as an uninterrupted one.

SIGTERM, SIGINT, SIGHUP and SIGUSR1 set a flag. A signal that is ignored stays ignored, so ``nohup`` works. After each
batch of training or evaluation, the ranks exchange their flags. If any rank has the flag, all ranks save and stop at
the same step.

A second signal of the same kind ends the process at once. A signal of another kind does so only if it arrives more
than one second later, because one request to stop may arrive from the terminal and from a parent process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from text.errors import InterruptedRun
from text.training.distributed import gather_counts
from text.training.lightning_internals import (
    is_last_batch,
    is_validation_next,
    log_epoch_metrics,
    log_step_metrics,
    restart_validation,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_GRACE_SECONDS = 1.0
"""Seconds during which signals of different kinds count as one request."""


class SaveOnSignal(Callback):
    """Callback that saves a checkpoint and stops after the batch during which a signal arrived.

    Lightning installs its own signal handlers before it calls the hooks below. When fit, validate or test ends, it
    restores all handlers, including those of this callback.

    Args:
        path: Checkpoint to save. It is saved only if training has begun.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._received: signal.Signals | None = None
        self._received_at = 0.0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._install_handlers()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._install_handlers()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if a signal arrived, unless a later hook will do so."""
        # If a validation comes next, on_validation_start stops. After the last batch, on_train_epoch_end stops:
        # Lightning does not count the next epoch if a checkpoint is saved before the last batch is counted.
        if not (is_validation_next(trainer) or is_last_batch(trainer)) and self._is_stop_requested(trainer):
            log_step_metrics(trainer)
            self._save_and_stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if a signal arrived during the last batch of the epoch."""
        # If a validation follows the last batch, its checkpoints are saved only after this hook.
        if not is_validation_next(trainer) and self._is_stop_requested(trainer):
            log_epoch_metrics(trainer)
            self._save_and_stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, and stop if a signal has arrived."""
        self._install_handlers()
        self._stop_evaluation(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if a signal arrived."""
        self._stop_evaluation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, and stop if a signal has arrived."""
        self._install_handlers()
        self._stop_evaluation(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if a signal arrived."""
        self._stop_evaluation(trainer)

    def _install_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, signal.SIG_DFL if signum == self._received else self._receive)

    def _receive(self, signum: int, frame: Any) -> None:
        if self._received is None:
            self._received, self._received_at = signal.Signals(signum), time.monotonic()
            self._install_handlers()
        elif time.monotonic() - self._received_at > _GRACE_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _is_stop_requested(self, trainer: Trainer) -> bool:
        """Return whether any rank has received a signal."""
        # Lightning's own handler may have caught a SIGTERM before this callback installed its handlers.
        has_signal = self._received is not None or trainer.received_sigterm
        [has_signals] = gather_counts(int(has_signal))
        return any(has_signals)

    def _stop_evaluation(self, trainer: Trainer) -> None:
        if not self._is_stop_requested(trainer):
            return
        if trainer.sanity_checking or trainer.state.fn != "fit":
            raise InterruptedRun(f"stopped by {self._describe_signal()} outside of training; checkpoints are unchanged")
        restart_validation(trainer)
        self._save_and_stop(trainer)

    def _save_and_stop(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        raise InterruptedRun(
            f"stopped by {self._describe_signal()} after step {trainer.global_step}; saved {self.path}. "
            "Resume to continue."
        )

    def _describe_signal(self) -> str:
        return self._received.name if self._received else "a signal to another rank"
