"""A signal ends a run with a checkpoint from which it goes on as if nothing had been.

SIGTERM, SIGINT and SIGUSR1 set a flag. After each batch, of training or evaluation, all ranks agree whether any of
them has it; then all save and stop at the same step. A second signal ends the process at once.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from text.errors import InterruptedRun
from text.training.distributed import total

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Where a validation comes next, on_validation_start stops.
        fetcher: Any = trainer.fit_loop._data_fetcher
        if not trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher) and self._agreed(trainer, pl_module):
            # Lightning writes the metrics of a step after this hook.
            trainer._logger_connector.update_train_step_metrics()
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
                signal.signal(signum, signal.SIG_DFL if self._received else self._receive)

    def _receive(self, signum: int, frame: Any) -> None:
        self._received = signal.Signals(signum)
        self._listen()

    def _agreed(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether any rank has received a signal."""
        has = self._received is not None or trainer.received_sigterm  # by Lightning, before it called us
        return bool(total(torch.tensor(float(has), device=pl_module.device)))

    def _stop_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._agreed(trainer, pl_module):
            return
        if trainer.sanity_checking or trainer.state.fn != "fit":
            raise InterruptedRun(f"stopped by {self._name()} outside of training; checkpoints are as they were")
        # So that whoever goes on starts this validation anew, as Lightning does for one that was under way.
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.load_state_dict(_NOTHING_EVALUATED)
        self._save_and_stop(trainer)

    def _save_and_stop(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        raise InterruptedRun(f"stopped by {self._name()} after step {trainer.global_step}; saved {self.path}")

    def _name(self) -> str:
        return self._received.name if self._received else "a signal to another rank"


_NOTHING_EVALUATED = {
    "total": {"ready": 1, "started": 1, "processed": 0, "completed": 0},
    "current": {"ready": 0, "started": 0, "processed": 0, "completed": 0},
    "is_last_batch": False,
}
