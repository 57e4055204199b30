"""Private and undocumented parts of pytorch-lightning, each behind a function with a plain name.

No other file of ``text/`` uses any. Tested with pytorch-lightning 2.6.6. Look through this file first when another
version fails.
"""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Return whether this process is the one that writes the files of a run. A Trainer need not exist yet."""
    return rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]


def count_trained_batches(trainer: Trainer) -> int:
    """Return the number of batches of the current epoch that were trained on."""
    return _batch_progress(trainer).current.processed


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the current training batch is the last one of its epoch."""
    return _batch_progress(trainer).is_last_batch


def is_validation_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the current training batch."""
    loop: Any = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate_by_steps(trainer: Trainer, num_steps: int) -> None:
    """Validate after every ``num_steps`` optimizer steps and after the last step of the run.

    Lightning counts batches instead of steps, and ends a run without a validation of its last steps.

    Args:
        trainer: Made with ``check_val_every_n_epoch=None``, so that checkpoints are saved after validations.
        num_steps: Optimizer steps between validations.
    """
    loop: Any = trainer.fit_loop.epoch_loop

    def is_due(data_fetcher: Any) -> bool:
        if loop.restarting and (loop.restarted_on_last or loop.val_loop.restarted_mid_evaluation):
            return True  # the checkpoint was saved in a validation, which Lightning finishes or skips
        is_end = is_last_batch(trainer) and trainer.current_epoch + 1 == trainer.max_epochs
        return not loop._should_accumulate() and (is_end or trainer.global_step % num_steps == 0)

    loop._should_check_val_fx = is_due


def restart_validation(trainer: Trainer) -> None:
    """Mark the validation in training as one that has begun and evaluated nothing.

    A run that continues from a checkpoint with this mark runs the whole validation first.
    """
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    nothing = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    begun = {**nothing, "ready": 1, "started": 1}
    loop.batch_progress.load_state_dict({"total": begun, "current": nothing, "is_last_batch": False})


def should_log_step(trainer: Trainer) -> bool:
    """Return whether metrics of the current training step go to the loggers (``log_every_n_steps``)."""
    return trainer._logger_connector.should_update_logs


def log_step_metrics(trainer: Trainer) -> None:
    """Send the metrics of the current training step to the loggers. Lightning does so after ``on_train_batch_end``."""
    trainer._logger_connector.update_train_step_metrics()


def log_epoch_metrics(trainer: Trainer) -> None:
    """Send the metrics of the current epoch of training to the loggers. Lightning does so after its last batch."""
    connector = trainer._logger_connector
    connector.epoch_end_reached()
    call._call_lightning_module_hook(trainer, "on_train_epoch_end")
    connector.update_train_epoch_metrics()


def _batch_progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.batch_progress
